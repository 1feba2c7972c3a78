// Where the time of an attempt went: a bar for the eye, and the same in words.
import { Fragment } from "react";
import type { Attempt } from "../api/client";
import { span } from "../format";
import { text } from "../text";

const words = text.deliveries.phases;
const ORDER = ["dns_ms", "connect_ms", "tls_ms", "first_byte_ms", "body_ms"] as const;
type Phase = (typeof ORDER)[number];
const FILLS: Record<Phase, string> = {
  dns_ms: "fill-phase-dns",
  connect_ms: "fill-phase-connect",
  tls_ms: "fill-phase-tls",
  first_byte_ms: "fill-phase-answer",
  body_ms: "fill-phase-body",
};

/** Milliseconds are what is known: of so few a picture would show how they were rounded. */
const LEAST_DRAWN_MS = 10;
/** Narrower ones would be hidden by the line before them. */
const LEAST_PARTED = 0.02;

/** Nothing where nobody took the time. */
export function Phases({ attempt }: { attempt: Attempt }) {
  const told = attempt.phases;
  if (!told) return null;
  const gone = ORDER.flatMap((phase) => (told[phase] === null ? [] : [{ phase, ms: told[phase] }]));
  const kept = told.connect_ms === null && told.first_byte_ms !== null;
  const failed = attempt.response_code ? undefined : gone.at(-1)?.phase;
  return (
    <figure aria-label={words.title} className="mt-2 mb-1">
      <Bar gone={gone} />
      <dl className="mt-1.5 flex flex-wrap gap-x-4 gap-y-0.5 text-xs text-muted">
        {kept && <div><dt className="sr-only">{words.names.connect_ms}</dt><dd>{words.kept}</dd></div>}
        {gone.map(({ phase, ms }) => (
          <div key={phase} className="flex items-baseline gap-1.5">
            <dt className="flex items-baseline gap-1.5"><svg aria-hidden="true" className="size-2 shrink-0 self-center"><rect width="8" height="8" rx="2" className={FILLS[phase]} /></svg>{words.names[phase]}</dt>
            <dd className="font-medium text-ink tabular-nums">{ms === 0 ? words.under : span(ms)}{phase === failed && <span className="text-bad"> {words.failed}</span>}</dd>
          </div>
        ))}
      </dl>
    </figure>
  );
}

/** As wide as there is room, whatever the attempt took: what counts is which part is the largest. */
function Bar({ gone }: { gone: { phase: Phase; ms: number }[] }) {
  const whole = gone.reduce((sum, { ms }) => sum + ms, 0);
  if (whole < LEAST_DRAWN_MS) return null;
  let before = 0;
  return (
    <svg aria-hidden="true" width="100%" height="8" className="block rounded-full bg-sunken">
      {gone.map(({ phase, ms }, index) => {
        const x = `${(before / whole) * 100}%`;
        before += ms;
        return (
          <Fragment key={phase}>
            <rect x={x} width={`${(ms / whole) * 100}%`} height="8" className={FILLS[phase]} />
            {index > 0 && ms / whole > LEAST_PARTED && <rect x={x} width="1.5" height="8" className="fill-surface" />}
          </Fragment>
        );
      })}
    </svg>
  );
}
