// What every form does: send, say what is wrong with which field, and keep what was entered.
import { useEffect, useRef, useState, type FormEvent } from "react";
import { Problem } from "../api/client";

export function useForm(send: () => Promise<void>) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const sent = useRef<HTMLFormElement>(null);
  // Whoever cannot see the page is led to what is wrong, once it is marked.
  useEffect(() => {
    if (problem) sent.current?.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus();
  }, [problem]);
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    sent.current = event.currentTarget;
    setBusy(true);
    setProblem(null);
    try {
      await send();
    } catch (error) {
      setProblem(Problem.of(error));
    } finally {
      setBusy(false);
    }
  };
  const errors = problem?.fields ?? {};
  /** What belongs to no field that is on the page. */
  const rest = problem && Object.keys(errors).length === 0 ? problem : null;
  return { submit: (event: FormEvent<HTMLFormElement>) => void submit(event), busy, problem, rest, errors };
}
