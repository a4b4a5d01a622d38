// The server's routes: which models there are, and pictures as a stream of events.

const KEY = "smalti.key";

// What the server, or the way to it, refused. `retry` is in seconds, 0 if it does not say.
export class Refusal extends Error {
  constructor(status, error, retry = 0) {
    super(error.message ?? `The server answered ${status}.`);
    Object.assign(this, { status, retry, code: error.code ?? "" });
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);

const lost = () => new Refusal(0, { message: "The server cannot be reached.", code: "unreachable" });

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { ...options, headers }).catch((error) => {
    throw error.name === "AbortError" ? error : lost();
  });
  if (answer.ok) return answer;
  const { error = {} } = await answer.json().catch(() => ({}));
  throw new Refusal(answer.status, error, Number(answer.headers.get("retry-after")) || 0);
}

export async function models() {
  return (await (await ask("v1/models")).json()).data;
}

// Ask for pictures by the fields of a request, or for an edit where there are files; `tell` gets
// each event as it comes. Returns when all have come.
export async function draw(fields, files, signal, tell) {
  const all = { ...fields, stream: true, partial_images: 3 };
  let path = "v1/images/generations";
  let options = { body: JSON.stringify(all), headers: { "content-type": "application/json" } };
  if (files) {
    path = "v1/images/edits";
    options = { body: new FormData() };
    for (const [name, value] of Object.entries({ ...all, ...files })) options.body.append(name, value);
  }
  const answer = await ask(path, { ...options, method: "POST", signal });
  let missing = fields.n;
  for await (const event of events(answer.body)) {
    if (event.error) throw new Refusal(answer.status, event.error);
    if (event.type.endsWith("completed")) missing -= 1;
    tell(event);
  }
  if (missing) throw lost();
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : lost();
    });
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}

// The file that an event holds, as it came.
export function fileOf(event) {
  const bytes = Uint8Array.from(atob(event.b64_json), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: `image/${event.output_format}` });
}
