import { defineConfig } from 'vite'

// GET /graphql serves index.html; what it loads is mounted at /graphiql (graph/pages.py).
export default defineConfig({
  base: '/graphiql/',
  build: {
    // Monaco, which is loaded whole or not at all.
    chunkSizeWarningLimit: 3000,
    rolldownOptions: { checks: { moduleLevelDirective: false } },
  },
  server: {
    proxy: { '/graphql': { target: 'http://localhost:8000', ws: true } },
  },
})
