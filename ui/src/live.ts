// What keeps an open page current. Where a site is open the server tells what happens on it, in one stream a tab; what no
// stream tells, and whatever happens while there is none, is asked for.
import { useQueryClient, type QueryClient, type QueryKey } from "@tanstack/react-query";
import { useEffect } from "react";
import { home } from "./api/client";

/** Milliseconds between two looks. */
const EVERY = 3_000;
/** So many looks are left out of what a stream tells. */
const SELDOM = 10;
/** Milliseconds until a stream that was refused is tried once more. */
const AGAIN = 30_000;
/** Milliseconds after which what moved is looked up a second time: what follows from an attempt is written after it. */
const AFTERWARDS = 1_000;
/** The first part of the keys of what a stream tells of; the second is the site. */
const TOLD = ["webhooks", "webhook", "pulse", "fresh", "delivery", "inbox"];

/** The site whose stream is open in this tab. */
let streamed: string | null = null;

/** While the page is looked at, what has these keys is looked up again every few seconds. */
export function useLive(...keys: QueryKey[]) {
  const client = useQueryClient();
  const wanted = JSON.stringify(keys);
  useEffect(() => {
    let looks = 0;
    const look = () => {
      if (document.hidden) return;
      looks += 1;
      for (const queryKey of JSON.parse(wanted) as QueryKey[]) {
        const told = streamed !== null && queryKey[1] === streamed && TOLD.includes(String(queryKey[0]));
        if (!told || looks % SELDOM === 0) void client.invalidateQueries({ queryKey });
      }
    };
    const timer = setInterval(look, EVERY);
    document.addEventListener("visibilitychange", look);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", look);
    };
  }, [client, wanted]);
}

export const visitorsKey = (site: string) => ["visitors", site] as const;

/** While the page is looked at, the stream of this site is open. A tab that nobody sees leaves its place to others. */
export function useStream(site: string) {
  const client = useQueryClient();
  useEffect(() => {
    let stream = document.hidden ? null : new Stream(client, site);
    const seen = () => {
      if (document.hidden) {
        stream?.close();
        stream = null;
      } else {
        stream ??= new Stream(client, site);
      }
    };
    document.addEventListener("visibilitychange", seen);
    return () => {
      document.removeEventListener("visibilitychange", seen);
      stream?.close();
    };
  }, [client, site]);
}

class Stream {
  private source!: EventSource;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private afterwards: ReturnType<typeof setTimeout> | undefined;
  private readonly client: QueryClient;
  private readonly site: string;

  constructor(client: QueryClient, site: string) {
    this.client = client;
    this.site = site;
    this.open();
  }

  private open() {
    const source = (this.source = new EventSource(`${home}/api/sites/${encodeURIComponent(this.site)}/stream`));
    source.onopen = () => {
      streamed = this.site;
      // What happened before it was open is told by nobody.
      this.moved();
    };
    source.onerror = () => {
      this.silent();
      // The browser comes back by itself, but not after a refusal.
      if (source.readyState === EventSource.CLOSED) this.timer = setTimeout(() => this.open(), AGAIN);
    };
    for (const name of ["delivery", "attempt", "reset"]) source.addEventListener(name, () => this.moved());
    source.addEventListener("current_visitors", (event: MessageEvent<string>) => {
      const { current_visitors } = JSON.parse(event.data) as { current_visitors: number };
      this.client.setQueryData(visitorsKey(this.site), current_visitors);
    });
  }

  private moved() {
    this.look();
    this.afterwards ??= setTimeout(() => {
      this.afterwards = undefined;
      this.look();
    }, AFTERWARDS);
  }

  private look() {
    for (const name of TOLD) void this.client.invalidateQueries({ queryKey: [name, this.site] });
  }

  private silent() {
    if (streamed === this.site) streamed = null;
    // A number that nobody keeps current is not shown.
    this.client.removeQueries({ queryKey: visitorsKey(this.site) });
  }

  close() {
    this.source.close();
    clearTimeout(this.timer);
    clearTimeout(this.afterwards);
    this.silent();
  }
}
