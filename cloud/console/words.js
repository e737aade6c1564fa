// How states, sizes and moments are written, here and nowhere else.

const KINDS = {
  running: "good", completed: "good",
  offered: "busy", accepted: "busy", fetching: "busy", verified: "busy", staged: "busy", switching: "busy", trial: "busy",
  refused: "bad", rolled_back: "bad", failed: "bad", rolling_back: "bad", halted: "bad",
  paused: "held", superseded: "idle", aborted: "idle",
};

export const kindOf = (state) => KINDS[state] ?? "idle";
export const words = (state) => (state ?? "idle").replaceAll("_", " ");
export const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;

export function size(bytes) {
  let left = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (left < 1000) return `${unit === "B" ? Math.round(left) : left.toFixed(1)} ${unit}`;
    left /= 1000;
  }
  return `${left.toFixed(1)} TB`;
}

export function ago(instant, now = Date.now()) {
  if (!instant) return "never";
  const seconds = Math.max(0, Math.round((now - Date.parse(instant)) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
}

export function figure(value) {
  if (!Number.isFinite(value)) return "–";
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

// What is desired now counts: a report about an older version says nothing about it.
export function stateOf(device) {
  const { desired, reported } = device;
  if (desired && (!reported || reported.desired_number < desired.desired_number)) return "offered";
  return reported ? reported.state : null;
}
