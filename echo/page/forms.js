// The forms of a panel. What is submitted becomes values field by field; a refusal is told beside
// the field that it is about, which gets the focus, and goes once the user types there.

import { InputError } from "./inputs.js";

export function createForms(root) {
  // Calls act(submitter) when the form is submitted.
  function on(selector, act) {
    const form = root.querySelector(selector);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await act(event.submitter);
      } catch (error) {
        if (!(error instanceof InputError)) throw error;
        complain(error.field, error.message);
        error.field.focus();
      }
    });
    form.addEventListener("input", (event) => complain(event.target, ""));
  }

  // The value of a field, from a parser that throws an InputError.
  function parse(field, parser) {
    try {
      return parser(field.value);
    } catch (error) {
      throw Object.assign(error, { field });
    }
  }

  function complain(field, text) {
    const place = root.querySelector(`#${field.id}-error`);
    if (!place) return; // not every field can be wrong
    place.textContent = text;
    field.setAttribute("aria-invalid", String(text !== ""));
  }

  return { on, parse, complain };
}
