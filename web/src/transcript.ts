import type { FormattedExecutionResult } from 'graphql'

/**
 * Gives each payload of a run's events the text that has come so far, as `extensions.text`: GraphiQL shows
 * the latest payload only, and a delta alone tells a reader nothing.
 */
export class Transcript {
  private text = ''

  add(result: FormattedExecutionResult): FormattedExecutionResult {
    for (const event of Object.values(result.data ?? {})) this.read(event)
    if (!this.text) return result
    return { ...result, extensions: { ...result.extensions, text: this.text } }
  }

  private read(event: unknown): void {
    const { __typename, text } = (event ?? {}) as { __typename?: unknown; text?: unknown }
    if (typeof text !== 'string') return
    // Not asked for: a text beside nothing else is a delta.
    if (__typename === 'RunTextDelta' || __typename === undefined) this.text += text
    // What the log no longer keeps comes as one snapshot of everything before it.
    if (__typename === 'RunSnapshot') this.text = text
  }
}
