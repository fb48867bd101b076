// What the hub asks of whoever sits before this window: one question at a time, whose form is there
// until it is answered, the time is up, or the connection is gone.

const LIMIT = 30_000; // ms: the hub waits no longer

export function createQuestions(form) {
  const question = form.querySelector("p");
  const field = form.querySelector("input");
  let waiting = null;
  let deadline;

  // A promise of the answer.
  function ask(text) {
    if (waiting) throw new Error("That window is being asked something else.");
    waiting = Promise.withResolvers();
    deadline = setTimeout(() => drop("Nobody answered in time."), LIMIT);
    form.hidden = false; // first: only what is shown is announced
    question.textContent = `Another window asks: ${text}`;
    return waiting.promise;
  }

  function drop(why) {
    waiting?.reject(new Error(why));
    clear();
  }

  function clear() {
    clearTimeout(deadline);
    waiting = null;
    form.hidden = true;
    question.textContent = "";
    field.value = "";
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    waiting.resolve(field.value);
    clear();
  });

  return { ask, drop };
}
