// Whether the window is as narrow as a phone, where a page is laid out in another order than style alone can bring about.
import { useSyncExternalStore } from "react";

const query = matchMedia("(width < 40rem)");
const watch = (listener: () => void) => {
  query.addEventListener("change", listener);
  return () => query.removeEventListener("change", listener);
};

export const useNarrow = () => useSyncExternalStore(watch, () => query.matches);
