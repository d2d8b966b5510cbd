import { createRoot } from 'react-dom/client'

import { BackendApiService, backendApi } from '@/services/backendApi'
import { useWebSocket } from '@/hooks/useWebSocket'
// @ts-expect-error exported by vite.config.ts
import { ChatComponent } from '@/components/ChatComponent'

/** Puts the hook where a test can reach it: what it returns as `window.hook`, what it received on the page. */
function HookProbe({ userId }: { userId: string }) {
  const hook = useWebSocket(userId)
  Object.assign(window, { hook })
  return (
    <section id="hook" data-connected={hook.isConnected}>
      {hook.messages.map((message, index) => (
        <p key={index}>{JSON.stringify(message)}</p>
      ))}
    </section>
  )
}

Object.assign(window, { backendApi, BackendApiService })

const userId = new URLSearchParams(location.search).get('user') ?? 'guest_probe'
createRoot(document.getElementById('root')!).render(
  <>
    <ChatComponent />
    <HookProbe userId={userId} />
  </>,
)
