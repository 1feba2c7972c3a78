// What a browser calls itself, short enough to recognise it by.
import { text } from "./text";

// The first that is found: each also claims to be those after it.
const BROWSERS = [["Edg", "Edge"], ["OPR", "Opera"], ["Firefox", "Firefox"], ["Chrome", "Chrome"], ["Safari", "Safari"]] as const;
const SYSTEMS = [["Android", "Android"], ["iPhone", "iPhone"], ["iPad", "iPad"], ["Windows", "Windows"], ["Mac OS", "macOS"], ["Linux", "Linux"]] as const;

export function browserOf(agent: string): string {
  const find = (names: readonly (readonly [string, string])[]) => names.find(([mark]) => agent.includes(mark))?.[1];
  const browser = find(BROWSERS) ?? agent.split(/[\s/]/)[0] ?? "";
  return browser ? text.you.named(browser, find(SYSTEMS) ?? "") : text.you.unknown;
}
