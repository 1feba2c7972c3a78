// The small parts that pages are made of. Native elements where there are some: they know keyboard and screen readers.
import { Link, type LinkProps } from "@tanstack/react-router";
import { useEffect, useId, useRef, useState, useSyncExternalStore, type ComponentProps, type ReactNode } from "react";
import { Problem } from "../api/client";
import { ago, exact } from "../format";
import type { Tone } from "../health";
import { text } from "../text";
import { Icon, type IconName } from "./icon";
import { tell } from "./toast";

const join = (...names: (string | false | undefined)[]) => names.filter(Boolean).join(" ");

const LOOKS = {
  main: "bg-press text-white hover:bg-press-on border-transparent",
  plain: "bg-surface text-ink border-edge hover:bg-sunken",
  quiet: "border-transparent text-accent hover:bg-tint",
  danger: "bg-surface text-bad border-bad hover:bg-bad-tint",
} as const;
type Look = keyof typeof LOOKS;

const buttonClass = (look: Look, small?: boolean) =>
  join(
    "inline-flex items-center justify-center gap-2 rounded-lg border font-medium whitespace-nowrap aria-disabled:cursor-not-allowed aria-disabled:opacity-60",
    small ? "min-h-8 px-2.5 text-sm" : "min-h-10 px-4 text-sm",
    LOOKS[look],
  );

interface ButtonProps extends ComponentProps<"button"> {
  look?: Look;
  small?: boolean;
  icon?: IconName;
  busy?: boolean;
}

export function Button({ look = "plain", small, icon, busy, children, className, disabled, onClick, ...rest }: ButtonProps) {
  const off = !!(disabled || busy);
  const click: ButtonProps["onClick"] = (event) => {
    if (off) event.preventDefault();
    else onClick?.(event);
  };
  // Not the attribute `disabled`: it would take the focus away from whoever just pressed it.
  return (
    <button type="button" {...rest} onClick={click} aria-disabled={off || undefined} aria-busy={busy || undefined} className={join(buttonClass(look, small), className)}>
      {icon && <Icon name={icon} />}
      {children}
    </button>
  );
}

export function ButtonLink({ look = "plain", small, icon, children, ...rest }: LinkProps & { look?: Look; small?: boolean; icon?: IconName; children: ReactNode }) {
  return (
    <Link {...rest} className={buttonClass(look, small)}>
      {icon && <Icon name={icon} />}
      {children}
    </Link>
  );
}

/** The head of a page; names the browser's tab too. */
export function Head({ title, lead, children, above, badge }: { title: string; lead?: ReactNode; children?: ReactNode; above?: ReactNode; badge?: ReactNode }) {
  useEffect(() => {
    document.title = `${title} · ${text.product}`;
  }, [title]);
  return (
    <header className="mb-6">
      {above && <div className="mb-2 text-sm">{above}</div>}
      <div className="flex flex-wrap items-start justify-between gap-x-6 gap-y-3">
        <div className="min-w-0 flex-1 basis-64">
          <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
            <h1 className="text-2xl font-semibold tracking-tight break-words [overflow-wrap:anywhere]">{title}</h1>
            {badge}
          </div>
          {lead && <div className="mt-1 text-muted [overflow-wrap:anywhere]">{lead}</div>}
        </div>
        {children && <div className="flex flex-wrap items-center gap-2 empty:hidden max-sm:w-full">{children}</div>}
      </div>
    </header>
  );
}

export function Card({ title, children, actions, className, lead }: { title?: string; lead?: string; children: ReactNode; actions?: ReactNode; className?: string }) {
  const id = useId();
  return (
    <section className={join("card", className)} aria-labelledby={title ? id : undefined}>
      {title && (
        <div className="flex flex-wrap items-center justify-between gap-3 border-b border-line px-5 py-3">
          <div>
            <h2 id={id} className="font-semibold">{title}</h2>
            {lead && <p className="text-sm text-muted">{lead}</p>}
          </div>
          {actions && <div className="flex flex-wrap gap-2">{actions}</div>}
        </div>
      )}
      {children}
    </section>
  );
}

const TONES: Record<Tone, string> = {
  good: "bg-good-tint text-good",
  warn: "bg-warn-tint text-warn",
  bad: "bg-bad-tint text-bad",
  plain: "bg-sunken text-muted",
};
const SHAPES: Record<Tone, IconName> = { good: "check", warn: "clock", bad: "alert", plain: "dot" };

/** Told by word, shape and colour. */
export function Badge({ tone, children }: { tone: Tone; children: ReactNode }) {
  return (
    <span className={join("inline-flex items-center gap-1.5 rounded-full px-2.5 py-0.5 text-sm font-medium whitespace-nowrap", TONES[tone])}>
      <Icon name={SHAPES[tone]} />
      {children}
    </span>
  );
}

export function Notice({ tone, title, children, role }: { tone: Tone; title?: string; children?: ReactNode; role?: "alert" | "status" }) {
  return (
    <div role={role} className={join("flex gap-3 rounded-lg px-4 py-3 text-sm", TONES[tone], tone === "plain" && "text-ink")}>
      <span className="mt-0.5"><Icon name={SHAPES[tone]} /></span>
      <div className="min-w-0 flex-1 [overflow-wrap:anywhere]">
        {title && <p className="font-semibold">{title}</p>}
        {children}
      </div>
    </div>
  );
}

export function ProblemNotice({ problem, title = text.problem.title, away, retry }: { problem: unknown; title?: string | undefined; away?: string; retry?: (() => void) | undefined }) {
  if (!problem) return null;
  const told = Problem.of(problem);
  return (
    <Notice tone="bad" role="alert" title={title}>
      <p>{told.status === 0 && away ? away : told.message}</p>
      {told.requestId && told.status >= 500 && <p className="mt-1 font-mono text-xs">{text.problem.request(told.requestId)}</p>}
      {retry && <Button small className="mt-2" onClick={retry}>{text.common.retry}</Button>}
    </Notice>
  );
}

/** What stands in for what is not there yet: nothing jumps when it comes. */
export function Loading({ rows = 3 }: { rows?: number }) {
  return (
    <div role="status" aria-label={text.common.loading} className="grid gap-3 p-5">
      {Array.from({ length: rows }, (_, index) => (
        <div key={index} className="h-8 animate-pulse rounded-lg bg-line/70" />
      ))}
    </div>
  );
}

export function Empty({ title, children, action, icon }: { title: string; children?: ReactNode; action?: ReactNode; icon: IconName }) {
  return (
    <div className="flex flex-col items-center gap-3 px-6 py-12 text-center">
      <span className="grid size-12 place-items-center rounded-full bg-tint text-accent"><Icon name={icon} size={22} /></span>
      <h2 className="text-lg font-semibold">{title}</h2>
      <div className="max-w-md text-balance text-muted">{children}</div>
      {action}
    </div>
  );
}

/** Instead of a page whose object is not there. */
export function NotFound() {
  return (
    <>
      <Head title={text.problem.notFound} lead={text.problem.notFoundWhy} />
      <ButtonLink to="/" look="main">{text.nav.overview}</ButtonLink>
    </>
  );
}

/** A question's three states in one place; `whole` where the answer is the page and not a part of it. */
export function Asked<T>({ query, children, rows, whole }: { query: { data: T | undefined; error: unknown; isPending: boolean; refetch: () => unknown }; children: (data: T) => ReactNode; rows?: number; whole?: boolean }) {
  if (query.data !== undefined) return <>{children(query.data)}</>;
  if (!query.error) return <Loading rows={rows} />;
  const told = Problem.of(query.error);
  if (told.status === 404) return whole ? <NotFound /> : <Empty title={text.problem.notFound} icon="search">{text.problem.notFoundWhy}</Empty>;
  if (told.status === 403) return <div className={whole ? "" : "p-5"}>{whole && <Head title={text.problem.notLoaded} />}<Notice tone="plain">{told.message}</Notice></div>;
  // What is refused for good is not asked again; nothing was entered that could be kept.
  const passes = told.status === 0 || told.status === 429 || told.status >= 500;
  const notice = <ProblemNotice problem={told} title={whole ? undefined : text.problem.notLoaded} away={text.problem.awayLoading} retry={passes ? () => void query.refetch() : undefined} />;
  return whole ? <><Head title={text.problem.notLoaded} />{notice}</> : <div className="p-5">{notice}</div>;
}

interface FieldProps {
  label: string;
  hint?: ReactNode;
  errors?: string[] | undefined;
  optional?: boolean;
  children: (attributes: { id: string; "aria-describedby": string | undefined; "aria-invalid": boolean | undefined; className: string }) => ReactNode;
}

export function Field({ label, hint, errors, optional, children }: FieldProps) {
  const id = useId();
  const bad = !!errors?.length;
  const described = [hint ? `${id}-hint` : "", bad ? `${id}-error` : ""].filter(Boolean).join(" ") || undefined;
  return (
    <div className="grid content-start gap-1">
      <label htmlFor={id} className="text-sm font-medium">
        {label} {optional && <span className="font-normal text-muted">({text.common.optional})</span>}
      </label>
      {children({ id, "aria-describedby": described, "aria-invalid": bad || undefined, className: "field" })}
      {hint && <p id={`${id}-hint`} className="text-sm text-muted">{hint}</p>}
      {bad && <p id={`${id}-error`} className="text-sm font-medium text-bad">{errors.map((one) => `${label} ${one}`).join(". ")}.</p>}
    </div>
  );
}

type Input = Omit<ComponentProps<"input">, "children">;

export function TextField({ label, hint, errors, optional, mono, ...input }: Input & Omit<FieldProps, "children"> & { mono?: boolean }) {
  return (
    <Field label={label} hint={hint} errors={errors} optional={optional}>
      {(attributes) => <input type="text" {...input} {...attributes} className={join(attributes.className, mono && "font-mono text-sm")} />}
    </Field>
  );
}

export function SelectField({ label, hint, errors, options, ...select }: ComponentProps<"select"> & Omit<FieldProps, "children"> & { options: [string, string][] }) {
  return (
    <Field label={label} hint={hint} errors={errors}>
      {(attributes) => (
        <select {...select} {...attributes}>
          {options.map(([value, name]) => <option key={value} value={value}>{name}</option>)}
        </select>
      )}
    </Field>
  );
}

export function Check({ label, ...input }: Input & { label: string }) {
  return (
    <label className="flex min-h-6 items-start gap-2.5 text-sm">
      <input type="checkbox" {...input} className="mt-0.5 size-4.5 shrink-0 accent-press" />
      <span>{label}</span>
    </label>
  );
}

export function Copy({ value, label = text.common.copy, compact }: { value: string; label?: string; compact?: boolean }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(value);
    } catch {
      // Without https there is no clipboard; the old way still works.
      const area = document.createElement("textarea");
      area.value = value;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    tell(text.common.copied);
  };
  return <Button small icon="copy" onClick={() => void copy()}>{compact ? <span className="max-sm:sr-only">{label}</span> : label}</Button>;
}

/** What is one line wraps; what is several scrolls, and on a phone has all of the width. */
export function Code({ children, copy = true, label }: { children: string; copy?: boolean; label: string }) {
  const lines = children.includes("\n");
  return (
    <div className={join("flex min-w-0 items-start rounded-lg border border-line bg-sunken", lines && "max-sm:flex-col-reverse")}>
      <pre tabIndex={0} aria-label={label} role="group" className={join("min-w-0 flex-1 p-3 font-mono text-sm leading-relaxed max-sm:w-full", lines ? "overflow-x-auto" : "whitespace-pre-wrap [overflow-wrap:anywhere]")}>{children}</pre>
      {copy && <div className={join("p-2", lines && "max-sm:-mb-2 max-sm:self-end")}><Copy value={children} compact /></div>}
    </div>
  );
}

// One clock for all: a row is drawn again only when its own words change.
let now = Date.now();
const listeners = new Set<() => void>();
setInterval(() => {
  now = Date.now();
  for (const listener of listeners) listener();
}, 5_000);
const subscribe = (listener: () => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

/** A moment as one says it, and exactly for whoever looks closer. */
export function Moment({ at, exactly }: { at: string; exactly?: boolean }) {
  // What happened since the clock last moved is not in the future.
  const said = useSyncExternalStore(subscribe, () => (exactly ? exact(at) : ago(at, Math.max(now, Date.parse(at) > Date.now() ? 0 : Date.parse(at)))));
  return <time dateTime={at} title={exact(at)} className="whitespace-nowrap">{said}</time>;
}

/** The browser's own dialog: focus stays in it and comes back, Escape closes it. */
export function Dialog({ open, title, onClose, children, wide }: { open: boolean; title: string; onClose: () => void; children: ReactNode; wide?: boolean }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const element = dialog.current;
    if (!element) return;
    if (open && !element.open) element.showModal();
    if (!open && element.open) element.close();
  }, [open]);
  return (
    <dialog
      ref={dialog}
      aria-labelledby={id}
      onClose={onClose}
      className={join("m-auto max-h-[90dvh] w-[calc(100%-2rem)] rounded-xl border border-line bg-surface p-6 text-ink shadow-xl", wide ? "max-w-2xl" : "max-w-md")}
    >
      {open && (
        <div className="grid gap-4">
          <h2 id={id} className="text-lg font-semibold">{title}</h2>
          {children}
        </div>
      )}
    </dialog>
  );
}

/** Asks before what cannot be taken back. With `word`, it has to be typed. */
export function Confirm({ open, title, children, yes, danger, word, onYes, onClose }: { open: boolean; title: string; children: ReactNode; yes: string; danger?: boolean; word?: string; onYes: () => Promise<unknown>; onClose: () => void }) {
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const go = async (event: { preventDefault: () => void }) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      await onYes();
      setTyped("");
      onClose();
    } catch (error) {
      setProblem(error);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog open={open} title={title} onClose={onClose}>
      <form onSubmit={(event) => void go(event)} className="grid gap-4">
        <div className="text-muted">{children}</div>
        {word && <TextField label={text.common.confirmType(word)} value={typed} onChange={(event) => setTyped(event.target.value)} autoComplete="off" />}
        <ProblemNotice problem={problem} />
        <div className="flex flex-wrap justify-end gap-2">
          <Button onClick={onClose}>{text.common.cancel}</Button>
          <Button type="submit" look={danger ? "danger" : "main"} busy={busy} disabled={!!word && typed !== word}>{yes}</Button>
        </div>
      </form>
    </Dialog>
  );
}

export function Pairs({ rows }: { rows: [string, ReactNode][] }) {
  return (
    <dl className="grid gap-x-6 gap-y-3 px-5 py-4 text-sm sm:grid-cols-[minmax(8rem,auto)_1fr]">
      {rows.map(([name, value]) => (
        <div key={name} className="contents">
          <dt className="text-muted max-sm:-mb-2">{name}</dt>
          <dd className="min-w-0 [overflow-wrap:anywhere]">{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export interface Column<Item> {
  name: string;
  /** Of the cells below it. */
  className?: string;
  /** Nothing need be said before what speaks for itself, such as a button. */
  bare?: boolean;
  of: (item: Item) => ReactNode;
}

interface TableProps<Item> {
  label: string;
  columns: Column<Item>[];
  items: Item[];
  keyOf: (item: Item) => string;
  /** Many rows of numbers are for comparing: they stay in columns on a phone too. */
  scrolls?: boolean;
}

/**
 * Wide tables scroll by themselves and by keyboard, not the page. On a phone each row stands by itself, its cells below each
 * other; the roles are said because what is no longer laid out as a table is otherwise not read as one.
 */
export function Table<Item>({ label, columns, items, keyOf, scrolls }: TableProps<Item>) {
  return (
    <div className="relative overflow-x-auto" tabIndex={0} role="group" aria-label={label}>
      <table role="table" className={join("w-full text-left text-sm", !scrolls && "stacks")}>
        <thead role="rowgroup">
          <tr role="row" className="border-b border-line text-muted">
            {columns.map(({ name }) => <th key={name} role="columnheader" scope="col" className="px-5 py-2.5 font-medium whitespace-nowrap">{name}</th>)}
          </tr>
        </thead>
        <tbody role="rowgroup" className="divide-y divide-line">
          {items.map((item) => (
            <tr key={keyOf(item)} role="row">
              {columns.map(({ name, className, bare, of }) => <td key={name} role="cell" data-name={bare ? undefined : name} className={join("px-5", scrolls ? "py-1.5" : "py-0.5 sm:py-3", className)}>{of(item)}</td>)}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
