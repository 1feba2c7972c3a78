// Numbers, moments and spans for people. The locale is the browser's, the time zone is always said.
import { INBOX } from "./api/client";
import { text } from "./text";

const locale = undefined;
const numbers = new Intl.NumberFormat(locale);
const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto", style: "short" });
export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

export const number = (value: number) => numbers.format(value);

/** "99.5 %": the sign stays with its number. */
export const percent = (part: number, whole: number) =>
  `${new Intl.NumberFormat(locale, { maximumFractionDigits: 1 }).format(whole === 0 ? 0 : (part / whole) * 100)}\u00a0%`;

/** "12 Nov 2026, 09:10:03 CET" */
export const exact = (moment: string | number) =>
  new Date(moment).toLocaleString(locale, {
    day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
  });

export const clock = (moment: string | number) =>
  new Date(moment).toLocaleString(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** A clock's time, with the day where that is another one than that of `beside`. */
export function time(moment: string, beside: string) {
  const on = new Date(moment);
  if (on.toDateString() === new Date(beside).toDateString()) return clock(moment);
  return on.toLocaleString(locale, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** For an axis whose marks are so many seconds apart. */
export const mark = (seconds: number, apart: number) =>
  new Date(seconds * 1_000).toLocaleString(locale, apart >= 86_400 ? { day: "numeric", month: "short" } : { hour: "2-digit", minute: "2-digit" });

export const day = (moment: string) =>
  new Date(moment).toLocaleDateString(locale, { day: "numeric", month: "short", year: "numeric" });

/** "in 3 min.", "2 hr. ago" */
export function ago(moment: string | number, now = Date.now()): string {
  const seconds = Math.round((new Date(moment).getTime() - now) / 1_000);
  const steps: [Intl.RelativeTimeFormatUnit, number][] = [["day", 86_400], ["hour", 3_600], ["minute", 60]];
  const [unit, size] = steps.find(([, size]) => Math.abs(seconds) >= size) ?? (["second", 1] as const);
  return relative.format(Math.trunc(seconds / size), unit);
}

/** Of what is still to come: "in 3 min", and "now" once it is due. */
export const due = (moment: string) => ago(Math.max(Date.parse(moment), Date.now()));

/** Milliseconds: "12 ms", "1.3 s" */
export const span = (ms: number) =>
  ms < 1_000 ? `${number(Math.round(ms))} ms` : `${number(Math.round(ms / 100) / 10)} s`;

/** "30m" → "30 min" */
export const wait = (text: string) =>
  text.replace(/(\d+)\s*([smhd])/g, (_, count: string, unit: string) =>
    `${count}\u00a0${{ s: "s", m: "min", h: "h", d: "d" }[unit]} `).trim();

/** Seconds, as roughly as one says them: "40 min", "3 h", "2 d" */
export function lasting(seconds: number): string {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return wait(`${Math.floor(seconds)}s`);
  if (minutes < 120) return wait(`${minutes}m`);
  return minutes < 2_880 ? wait(`${Math.floor(minutes / 60)}h`) : wait(`${Math.floor(minutes / 1_440)}d`);
}

/** "100, 200 or 300" */
export const either = (numbers: number[]) => new Intl.ListFormat("en-GB", { type: "disjunction" }).format(numbers.map(number));

/** The host in full, the path short, the query never. */
export function shortUrl(url: string): { host: string; path: string } {
  if (url === INBOX) return { host: text.inbox.title, path: "" };
  try {
    const { host, pathname, search } = new URL(url);
    // Whoever may not see the path is told "/…", which an address encodes.
    return { host, path: (pathname === "/" ? "" : pathname.replaceAll("%E2%80%A6", "…")) + (search ? "?…" : "") };
  } catch {
    return { host: url, path: "" };
  }
}

export const pretty = (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

/** What a date-and-time field holds, in the browser's zone. */
export const toInput = (moment: string | undefined) => {
  if (!moment) return "";
  const date = new Date(moment);
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
};

export const fromInput = (value: string) => (value ? new Date(value).toISOString() : undefined);
