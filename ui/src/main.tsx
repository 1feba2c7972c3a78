import { MutationCache, QueryCache, QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Problem } from "./api/client";
import { makeRouter } from "./router";
import "./style.css";

/** Where nobody need be signed in. */
const OPEN = new Set(["/sign-in", "/setup", "/sign-up", "/invitation"]);

/** Whoever's session ended is asked to sign in, and comes back to where they were. */
function signInIfEnded(error: unknown) {
  if (!(error instanceof Problem) || error.status !== 401) return;
  const { pathname, href } = router.state.location;
  if (!OPEN.has(pathname)) void router.navigate({ to: "/sign-in", search: { to: href } });
}

const client = new QueryClient({
  queryCache: new QueryCache({ onError: signInIfEnded }),
  mutationCache: new MutationCache({ onError: signInIfEnded }),
  defaultOptions: {
    queries: {
      // What the server refuses it refuses again; what it cannot do now it may do in a moment.
      retry: (count, error) => count < 2 && !(error instanceof Problem && error.status > 0 && error.status < 500),
      staleTime: 1_000,
      // The server may well be reached by whom the browser calls offline; otherwise it is said.
      networkMode: "always",
    },
  },
});
const router = makeRouter(client);

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <QueryClientProvider client={client}>
      <RouterProvider router={router} />
    </QueryClientProvider>
  </StrictMode>,
);
