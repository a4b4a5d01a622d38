"""A server of pictures over HTTP, that clients of OpenAI's images speak to. Needs the extra
`serve`."""
