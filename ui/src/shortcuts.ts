// Keys for those who prefer them. Single letters can be switched off: whoever speaks to the computer, or hits keys by
// accident, would set them off unawares.
import { useNavigate, useParams } from "@tanstack/react-router";
import { useEffect, useRef, useState, type Dispatch, type SetStateAction } from "react";

export type Panel = "palette" | "help";
const KEY = "pulsehook.shortcuts";
/** Milliseconds between the two keys of a pair. */
const PAIR = 1_500;

export const lettersOn = () => {
  try {
    return localStorage.getItem(KEY) !== "off";
  } catch {
    return true;
  }
};

export function setLetters(on: boolean) {
  try {
    if (on) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, "off");
  } catch {
    // They stay as they are then.
  }
}

const takesText = (target: EventTarget | null) =>
  target instanceof HTMLElement && (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName));

/** What is open, and a way to open it. */
export function useShortcuts(): [Panel | null, Dispatch<SetStateAction<Panel | null>>] {
  const [panel, setPanel] = useState<Panel | null>(null);
  const navigate = useNavigate();
  const { site } = useParams({ strict: false });
  /** When the first of a pair was pressed; a page that comes meanwhile does not forget it. */
  const began = useRef(0);
  useEffect(() => {
    const pairs: Record<string, () => unknown> = {
      o: () => navigate({ to: "/" }),
      s: () => navigate({ to: "/sites" }),
      k: () => navigate({ to: "/account/keys" }),
      ...(site
        ? {
            w: () => navigate({ to: "/sites/$site/webhooks", params: { site } }),
            d: () => navigate({ to: "/sites/$site/deliveries", params: { site } }),
            g: () => navigate({ to: "/sites/$site/goals", params: { site } }),
          }
        : {}),
    };
    const create = () => (site ? navigate({ to: "/sites/$site/webhooks/new", params: { site } }) : navigate({ to: "/sites/new" }));
    const press = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.isComposing) return;
      if ((event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k") {
        event.preventDefault();
        setPanel("palette");
        return;
      }
      const isLetter = !event.ctrlKey && !event.metaKey && !event.altKey;
      if (!isLetter || takesText(event.target) || document.querySelector("dialog[open]") || !lettersOn()) return;
      const second = event.timeStamp - began.current < PAIR && began.current > 0;
      began.current = 0;
      const run = (deed: () => unknown) => {
        event.preventDefault();
        void deed();
      };
      if (second && pairs[event.key]) run(pairs[event.key]!);
      else if (event.key === "g") began.current = event.timeStamp;
      else if (event.key === "c") run(create);
      else if (event.key === "/") run(() => setPanel("palette"));
      else if (event.key === "?") run(() => setPanel("help"));
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, [navigate, site]);
  return [panel, setPanel];
}
