import 'graphiql/setup-workers/vite'
import 'graphiql/style.css'
import './page.css'

import { GraphiQL } from 'graphiql'
import { createRoot } from 'react-dom/client'

import { createFetcher } from './fetcher'
import { WELCOME_HEADERS, WELCOME_QUERY } from './welcome'

const fetcher = createFetcher('/graphql')

createRoot(document.getElementById('graphiql')!).render(
  <GraphiQL
    fetcher={fetcher}
    defaultQuery={WELCOME_QUERY}
    defaultHeaders={WELCOME_HEADERS}
    defaultEditorToolsVisibility="headers"
  >
    <GraphiQL.Logo>
      <span className="brand">AI Chat Studio</span>
    </GraphiQL.Logo>
  </GraphiQL>,
)
