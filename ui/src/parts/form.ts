// What every form does: send, say what is wrong with which field, and keep what was entered.
import { useState, type FormEvent } from "react";
import { Problem } from "../api/client";

export function useForm(send: () => Promise<void>) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    setBusy(true);
    setProblem(null);
    try {
      await send();
    } catch (error) {
      setProblem(Problem.of(error));
      // Whoever cannot see the page is led to what is wrong.
      requestAnimationFrame(() => form.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus());
    } finally {
      setBusy(false);
    }
  };
  const errors = problem?.fields ?? {};
  /** What belongs to no field that is on the page. */
  const rest = problem && Object.keys(errors).length === 0 ? problem : null;
  return { submit: (event: FormEvent<HTMLFormElement>) => void submit(event), busy, problem, rest, errors };
}
