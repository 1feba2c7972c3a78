// What a trigger would have done on the site's own history.
import { keepPreviousData, queryOptions } from "@tanstack/react-query";
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
  expected: number;
  change_percent: number;
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
    queryKey: ["backtest", site, trigger],
    queryFn: async ({ signal }) => {
      const { goal_id: _goal, ...body } = trigger;
      return (await answer(api.POST("/api/sites/{site}/triggers/backtest", { params: { path: { site } }, body, signal }))) as unknown as Backtest;
    },
    retry: false,
    staleTime: 60_000,
    placeholderData: keepPreviousData,
  });
