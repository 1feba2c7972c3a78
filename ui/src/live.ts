// What keeps an open page current. Everything that wants to be live goes through here, so that a stream can take the place
// of asking without any page knowing.
import { useQueryClient, type QueryKey } from "@tanstack/react-query";
import { useEffect } from "react";

/** Milliseconds between two looks. */
const EVERY = 3_000;

/** While the page is looked at, what has these keys is looked up again every few seconds. */
export function useLive(...keys: QueryKey[]) {
  const client = useQueryClient();
  const wanted = JSON.stringify(keys);
  useEffect(() => {
    const look = () => {
      if (document.hidden) return;
      for (const queryKey of JSON.parse(wanted) as QueryKey[]) void client.invalidateQueries({ queryKey });
    };
    const timer = setInterval(look, EVERY);
    document.addEventListener("visibilitychange", look);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", look);
    };
  }, [client, wanted]);
}
