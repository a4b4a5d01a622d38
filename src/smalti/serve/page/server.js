// The server's routes: its models, and pictures as a stream of events.

const KEY = "smalti.key"; // where this tab keeps the key

// What the server, or the way to it, refused; `retry` in seconds, 0 if it does not say.
export class Refusal extends Error {
  constructor(status, message, retry = 0) {
    super(message ?? `The server answered ${status}`);
    Object.assign(this, { status, retry });
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);

function lost(error) {
  throw error?.name === "AbortError" ? error : new Refusal(0, "The server cannot be reached");
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { ...options, headers }).catch(lost);
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({}));
  throw new Refusal(answer.status, error?.message, Number(answer.headers.get("retry-after")));
}

export const models = async () => (await (await ask("v1/models")).json()).data;

// Ask for pictures by the fields of a request, or for an edit where there are files; `tell` gets
// each event as it comes. Returns when all have come.
export async function draw(fields, files, signal, tell) {
  const all = { ...fields, stream: true, partial_images: 3 };
  const json = { body: JSON.stringify(all), headers: { "content-type": "application/json" } };
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...all, ...files })) form.append(name, value);
  const [route, options] = files ? ["edits", { body: form }] : ["generations", json];
  const answer = await ask(`v1/images/${route}`, { ...options, method: "POST", signal });
  let missing = fields.n;
  for await (const event of events(answer.body)) {
    if (event.error) throw new Refusal(answer.status, event.error.message);
    if (event.type.endsWith("completed")) missing -= 1;
    tell(event);
  }
  if (missing) lost();
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { value, done } = await reader.read().catch(lost);
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = /^data: (.*)/m.exec(part);
      if (data) yield JSON.parse(data[1]);
    }
  }
}

// The file that an event holds, as it came.
export function fileOf({ b64_json, output_format }) {
  const bytes = Uint8Array.from(atob(b64_json), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: `image/${output_format}` });
}
