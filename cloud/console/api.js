// Talk to the cloud with the operator's token, which lives in this tab only and leaves the address at once.

const KEY = "edgewright.token";

export class Refused extends Error {}

export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY);
}

export const keepToken = (token) => sessionStorage.setItem(KEY, token);
export const forgetToken = () => sessionStorage.removeItem(KEY);

export async function ask(path, { method = "GET", signal } = {}) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}`, Accept: "application/json" };
  const answer = await fetch(path, { method, headers, signal, cache: "no-store", credentials: "omit" });
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401 || answer.status === 403) throw new Refused(body.error ?? "the token does not open this cloud");
  if (!answer.ok) throw new Error(body.error ?? `the cloud answered ${answer.status}`);
  return body;
}
