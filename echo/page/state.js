// Shows the state a connection is in and, as a trail, how long it spent in those it has left: on a
// fast network Connecting and Closing last for less than a frame, and only the trail can show them.

export function createStateView(root) {
  const label = root.querySelector(".label");
  const steps = new Map(Array.from(root.querySelectorAll("[data-state]"),
    (step) => [step.dataset.state, step]));
  let current = label.textContent;
  let since = performance.now();

  function show(name) {
    if (name === current) return;
    const now = performance.now();
    if (name === "Connecting") {
      for (const step of steps.values()) note(step, ""); // a new connection, a new trail
    } else {
      note(steps.get(current), formatDuration(now - since));
    }
    steps.get(current).removeAttribute("aria-current");
    steps.get(name).setAttribute("aria-current", "step");
    root.dataset.state = name;
    label.textContent = name;
    current = name;
    since = now;
  }

  return { show };
}

function note(step, text) {
  step.querySelector("span").textContent = text;
  step.classList.toggle("passed", text !== "");
}

function formatDuration(ms) {
  if (ms < 1000) return `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : `${(ms / 60_000).toFixed(1)} min`;
}
