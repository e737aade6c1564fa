// Requests to the cloud with the operator token, which is removed from the address and stored for this tab only.

const KEY = "edgewright.token";

export class Unauthorized extends Error {}

export function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    sessionStorage.setItem(KEY, token);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY);
}

export const keepToken = (token) => sessionStorage.setItem(KEY, token);
export const forgetToken = () => sessionStorage.removeItem(KEY);

export async function request(path, { method = "GET", signal } = {}) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}`, Accept: "application/json" };
  const response = await fetch(path, { method, headers, signal, cache: "no-store", credentials: "omit" });
  const body = await response.json().catch(() => ({}));
  if (response.status === 401 || response.status === 403) throw new Unauthorized(body.error ?? "the cloud refused the token");
  if (!response.ok) throw new Error(body.error ?? `the cloud answered ${response.status}`);
  return body;
}
