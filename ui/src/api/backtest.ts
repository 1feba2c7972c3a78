// What a trigger would have done. Servers without that route answer 404 or 405: the chart is left out then.
import { keepPreviousData, queryOptions } from "@tanstack/react-query";
import { home, Problem, type TriggerBody } from "./client";

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
  reason?: string;
  ended_at?: string;
}
export interface Suggestion {
  per_month: number;
  threshold: number;
  firings: number;
}
export interface Backtest {
  firings: Firing[];
  series: Point[];
  suggestions?: Suggestion[];
}

export const backtestQuery = (site: string, trigger: TriggerBody) =>
  queryOptions({
    queryKey: ["backtest", site, trigger],
    queryFn: async ({ signal }): Promise<Backtest | null> => {
      const response = await fetch(`${home}/api/sites/${encodeURIComponent(site)}/triggers/backtest`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(trigger),
        signal,
      });
      if (response.status === 404 || response.status === 405) return null;
      const body = await response.json();
      if (!response.ok) throw new Problem(response.status, body.code, body.detail, body.errors ?? {}, response.headers.get("x-request-id"));
      return body as Backtest;
    },
    retry: false,
    staleTime: 60_000,
    placeholderData: keepPreviousData,
  });
