// Lines fit the editor of a 1280 px window.
export const WELCOME_QUERY = `# Welcome to AI Chat Studio.
#
# 1. Put the cursor into Register and press
#    Ctrl-Enter (or use the button's list).
# 2. Copy the accessToken of the answer into
#    Headers, below; remove the // there.
# 3. Run Chat: extensions.text grows.
#
# Ctrl-Space completes; docs: top left.

mutation Register {
  register(
    input: {
      username: "ada"
      email: "ada@example.com"
      password: "correct horse"
    }
  ) {
    accessToken
  }
}

mutation Login {
  login(
    input: {
      username: "ada"
      password: "correct horse"
    }
  ) {
    accessToken
  }
}

subscription Chat {
  chat(
    input: {
      messages: [{ role: USER, content: "Hello!" }]
    }
  ) {
    __typename
    seq
    ... on RunTextDelta {
      text
    }
    ... on RunFinished {
      status
      usage {
        totalTokens
      }
    }
  }
}
`

export const WELCOME_HEADERS = `{
  // "Authorization": "Bearer <accessToken>"
}
`
