// Text for states, sizes, times and numbers.

const KINDS = {
  running: "success", completed: "success",
  offered: "active", accepted: "active", fetching: "active", verified: "active", staged: "active", switching: "active", trial: "active",
  refused: "failed", rolled_back: "failed", failed: "failed", rolling_back: "failed", halted: "failed",
  paused: "paused", superseded: "idle", aborted: "idle",
};

export const kindOf = (state) => KINDS[state] ?? "idle";
export const words = (state) => (state ?? "idle").replaceAll("_", " ");
export const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;

export function size(bytes) {
  let value = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000) return `${unit === "B" ? Math.round(value) : value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
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

// The workloads of a device, each with its own desired state and report; one without a name where the device knows only one.
export function workloadsOf({ desired, reported }) {
  const [wanted, known] = [desired?.workloads ?? (desired ? [desired] : []), reported?.workloads];
  if (!known?.length) return [{ workload: "", desired, reported }];
  const names = [...new Set([...wanted, ...known].map((each) => each.workload))].sort();
  const named = (list, name) => list.find((each) => each.workload === name) ?? null;
  return names.map((name) => ({ workload: names.length > 1 ? name : "", desired: named(wanted, name), reported: named(known, name) }));
}

// The state of the current desired state of a workload; a report about an older one does not count.
export function workloadState({ desired, reported }) {
  if (desired && (!reported || reported.desired_number < desired.desired_number)) return "offered";
  return reported ? reported.state : null;
}
