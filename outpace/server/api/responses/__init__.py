"""POST /v1/responses: OpenAI's newer API, answered by the same code as chat."""
