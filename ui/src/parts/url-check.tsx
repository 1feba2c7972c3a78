import { useEffect, useRef, useState } from "react";
import { api, answer, Problem, type CheckStep } from "../api/client";
import { text } from "../text";
import { Icon, type IconName } from "./icon";
import { Button, ProblemNotice, TextField } from "./ui";

const words = text.webhooks;
/** Milliseconds of quiet before somebody who still types is checked. */
const QUIET = 600;
const SHAPES: Record<string, [IconName, string]> = {
  ok: ["check", "text-good"],
  failed: ["alert", "text-bad"],
  skipped: ["dot", "text-muted"],
};

interface Props {
  site: string;
  url: string;
  onChange: (url: string) => void;
  errors: string[] | undefined;
  format: string;
  /** What to sign a ping with, if it is known here. */
  secret?: string | undefined;
}

/** The address and, step by step, how far one gets with it. It never stands in the way of saving. */
export function UrlField({ site, url, onChange, errors, format, secret }: Props) {
  const [steps, setSteps] = useState<CheckStep[] | null>(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const underWay = useRef<AbortController | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const checked = useRef("");

  const check = async (ping: boolean) => {
    clearTimeout(timer.current);
    if (!url.trim() || (!ping && checked.current === url)) return;
    checked.current = url;
    underWay.current?.abort();
    const mine = (underWay.current = new AbortController());
    setBusy(true);
    setProblem(null);
    try {
      const body = { url, ...(ping ? { ping, format, ...(secret ? { secret } : {}) } : {}) };
      const told = await answer(api.POST("/api/sites/{site}/webhooks/check", { params: { path: { site } }, body, signal: mine.signal }));
      if (!mine.signal.aborted) setSteps(told.steps);
    } catch (error) {
      if (!mine.signal.aborted) {
        setProblem(Problem.of(error));
        setSteps(null);
      }
    } finally {
      if (!mine.signal.aborted) setBusy(false);
    }
  };
  const latest = useRef(check);
  useEffect(() => {
    latest.current = check;
  });
  useEffect(() => () => {
    clearTimeout(timer.current);
    underWay.current?.abort();
  }, []);

  const failed = steps?.some(({ state }) => state === "failed");
  return (
    <div className="grid gap-3">
      <TextField
        label={words.url}
        hint={words.urlHint}
        errors={errors}
        type="url"
        inputMode="url"
        value={url}
        onChange={(event) => {
          onChange(event.target.value);
          setSteps(null);
          clearTimeout(timer.current);
          if (/^https?:\/\/[^/]+\../.test(event.target.value)) timer.current = setTimeout(() => void latest.current(false), QUIET);
        }}
        onBlur={() => void check(false)}
        placeholder="https://"
        required
        spellCheck={false}
        autoComplete="off"
        maxLength={2048}
      />
      <div aria-live="polite">
        {busy && <p className="text-sm text-muted">{words.checking}…</p>}
        {!busy && steps && (
          <div className="grid gap-2 rounded-lg border border-line bg-sunken px-4 py-3 text-sm">
            <p className="font-medium">{failed ? words.checkFailed : words.checkOk}</p>
            <ul className="grid gap-1.5">
              {steps.filter(({ state }) => state !== "skipped").map((step) => {
                const [icon, colour] = SHAPES[step.state] ?? SHAPES["skipped"]!;
                return (
                  <li key={step.step} className="flex gap-2">
                    <span className={`mt-0.5 ${colour}`}><Icon name={icon} /></span>
                    <span className="min-w-0">
                      <span className="sr-only">{words.checkStates[step.state]}: </span>
                      <span className="font-medium">{words.checkSteps[step.step] ?? step.step}</span>: {step.message} {step.fix && <span className="font-medium">{step.fix}</span>}
                    </span>
                  </li>
                );
              })}
            </ul>
          </div>
        )}
      </div>
      {problem && <ProblemNotice problem={problem} />}
      {(steps || problem) && !busy && (
        <div className="flex flex-wrap gap-2">
          <Button small icon="repeat" onClick={() => { checked.current = ""; void check(false); }}>{words.checkAgain}</Button>
          <Button small icon="send" onClick={() => void check(true)}>{words.ping}</Button>
        </div>
      )}
    </div>
  );
}
