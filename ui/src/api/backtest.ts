// What a trigger would have done on the site's own history.
import { queryOptions } from "@tanstack/react-query";
import { api, answer, type Schemas, type TriggerBody } from "./client";

// The document names the fields of these in words.
export interface Point {
  timestamp: string;
  observed: number;
  expected?: number;
  low?: number;
  high?: number;
}
export interface Firing {
  timestamp: string;
  observed: number;
  expected?: number;
  change_percent?: number;
  score?: number;
  reason: string;
  ended_at?: string;
}
export interface Suggestion {
  per_month: number;
  threshold: number;
  firings: number;
}
export type Basis = { history: { days: number } } | { last_hours: { hours: number } };

export type Backtest = Omit<Schemas["BacktestAnswer"], "basis" | "firings" | "series" | "suggestions"> & {
  basis?: Basis;
  firings: Firing[];
  series: Point[];
  suggestions: Suggestion[];
};

export const backtestQuery = (site: string, trigger: TriggerBody) =>
  queryOptions({
    queryKey: ["backtest", site, trigger] as const,
    queryFn: async ({ signal }) =>
      (await answer(api.POST("/api/sites/{site}/triggers/backtest", { params: { path: { site } }, body: trigger, signal }))) as unknown as Backtest,
    retry: false,
    staleTime: 60_000,
    // What another setting would have done stands until the new one is known; what another type would have done does not.
    placeholderData: (before: Backtest | undefined, query) => (query?.queryKey[2].type === trigger.type ? before : undefined),
  });

/** Milliseconds shown before a moment, and after it. */
const BEFORE = 12 * 3_600_000;
const AFTER = 2 * 3_600_000;

/** A site's visitors around a moment, and what was usual. What comes after it is still to come where it is new. */
export const aroundQuery = (site: string, trigger: TriggerBody, moment: number) =>
  queryOptions({
    queryKey: ["around", site, trigger, moment],
    queryFn: async ({ signal }) => {
      const from = new Date(moment - BEFORE).toISOString();
      // Left out it is the server's own present, whatever the clock here says.
      const to = Date.now() < moment + AFTER ? {} : { to: new Date(moment + AFTER).toISOString() };
      return (await answer(api.POST("/api/sites/{site}/triggers/backtest", { params: { path: { site } }, body: { ...trigger, from, ...to }, signal }))) as unknown as Backtest;
    },
    retry: false,
    staleTime: 60_000,
    refetchInterval: () => (Date.now() < moment + AFTER ? 60_000 : false),
  });
