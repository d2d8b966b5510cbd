import {
  createGraphiQLFetcher,
  type Fetcher,
  type FetcherParams,
  type FetcherReturnType,
} from '@graphiql/toolkit'
import {
  type DocumentNode,
  type FormattedExecutionResult,
  type GraphQLFormattedError,
  getOperationAST,
} from 'graphql'
import { createClient, type SubscribePayload } from 'graphql-ws'

import { Transcript } from './transcript'

interface Sink {
  next: (result: FormattedExecutionResult) => void
  complete: () => void
}

/** Queries and mutations over HTTP, subscriptions over graphql-ws; the header editor serves both. */
export function createFetcher(path: string): Fetcher {
  const overHttp = createGraphiQLFetcher({ url: path, enableIncrementalDelivery: false })
  const socketUrl = new URL(path, location.href.replace(/^http/, 'ws')).href

  return (params, options) =>
    isSubscription(params, options?.documentAST)
      ? subscription(socketUrl, params, options?.headers)
      : // Without the document: of several operations without names it would take some for a subscription of its own.
        overHttp(params, { ...options, documentAST: undefined })
}

function isSubscription(params: FetcherParams, document?: DocumentNode): boolean {
  return !!document && getOperationAST(document, params.operationName)?.operation === 'subscription'
}

/** An Observable, since GraphiQL's stop button ends one at once and an async generator only at its next value. */
function subscription(
  url: string,
  params: FetcherParams,
  headers: Record<string, unknown> = {},
): FetcherReturnType {
  const observable = {
    subscribe(sink: Sink) {
      // No retries: a chat that is sent again is a second chat.
      const client = createClient({ url, connectionParams: headers, retryAttempts: 0 })
      const transcript = new Transcript()
      const frame = new LatestPerFrame(sink.next)
      const finish = () => {
        frame.flush()
        sink.complete()
      }
      let latest: FormattedExecutionResult = {}
      const unsubscribe = client.subscribe(params as SubscribePayload, {
        next: (result) => frame.show((latest = transcript.add(result as FormattedExecutionResult))),
        // What has come stays in sight.
        error: (failure) => {
          frame.show({ ...latest, errors: errorsOf(failure) })
          finish()
        },
        complete: finish,
      })
      return {
        unsubscribe() {
          frame.flush()
          unsubscribe()
        },
      }
    },
  }
  // Of an Observable's ways to subscribe GraphiQL uses this one, with a sink.
  return observable as unknown as FetcherReturnType
}

/** Renders the result pane once per frame: a model can stream more events than an editor can show. */
class LatestPerFrame<T> {
  private latest: T | undefined
  private scheduled = 0

  constructor(private readonly render: (value: T) => void) {}

  show(value: T): void {
    this.latest = value
    this.scheduled ||= requestAnimationFrame(() => this.flush())
  }

  flush(): void {
    cancelAnimationFrame(this.scheduled)
    this.scheduled = 0
    if (this.latest !== undefined) this.render(this.latest)
    this.latest = undefined
  }
}

function errorsOf(failure: unknown): readonly GraphQLFormattedError[] {
  if (Array.isArray(failure)) return failure
  if (failure instanceof CloseEvent) {
    return [{ message: `The server closed the socket: ${failure.code} ${failure.reason || '(no reason)'}` }]
  }
  if (failure instanceof Error) return [{ message: failure.message }]
  return [{ message: 'The socket could not be opened.' }]
}
