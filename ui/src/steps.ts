// The way of somebody new, from a site to the first delivery.
export const STEPS = ["site", "traffic", "webhook", "trigger", "test"] as const;
export type Step = (typeof STEPS)[number];

/** Kept in the address: whoever reloads goes on where they were. */
export interface StartSearch {
  site?: string;
  webhook?: string;
  step?: Step;
}
