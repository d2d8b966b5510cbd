import { fileURLToPath } from 'node:url'

import { defineConfig } from 'vite'

// The guide's component exports nothing; its file stays as the guide has it.
const exportChatComponent = {
  name: 'export-chat-component',
  transform(code: string, id: string) {
    return id.endsWith('/ChatComponent.tsx') ? `${code}\nexport { ChatComponent }\n` : undefined
  },
}

export default defineConfig({
  resolve: { alias: { '@': fileURLToPath(new URL('./src', import.meta.url)) } },
  plugins: [exportChatComponent],
})
