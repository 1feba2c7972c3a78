// What pages ask, by name. A key begins with what it is of, so that a change can say what is no longer true.
import { infiniteQueryOptions, queryOptions } from "@tanstack/react-query";
import { api, answer, home } from "./client";

export interface DeliveryFilter {
  /** In a site's list: only of this one. */
  webhook_id?: string;
  status?: string;
  trigger_type?: string;
  from?: string;
  to?: string;
}

const PAGE = 100;

export const meQuery = queryOptions({
  queryKey: ["me"],
  queryFn: () => answer(api.GET("/api/me")),
  staleTime: 60_000,
});

export const sitesQuery = queryOptions({
  queryKey: ["sites"],
  queryFn: async () => (await answer(api.GET("/api/sites"))).sites,
});

export const trafficQuery = (site: string) =>
  queryOptions({
    queryKey: ["traffic", site],
    queryFn: () => answer(api.GET("/api/sites/{site}/traffic", { params: { path: { site } } })),
  });

/** When nobody looked at the traffic, and since when nobody can, if so. */
export const gapsQuery = (site: string) =>
  queryOptions({
    queryKey: ["gaps", site],
    queryFn: () => answer(api.GET("/api/sites/{site}/gaps", { params: { path: { site } } })),
    refetchInterval: 30_000,
  });

export const goalsQuery = (site: string) =>
  queryOptions({
    queryKey: ["goals", site],
    queryFn: async () => (await answer(api.GET("/api/sites/{site}/goals", { params: { path: { site } } }))).goals,
  });

export const webhooksQuery = (site: string) =>
  queryOptions({
    queryKey: ["webhooks", site],
    queryFn: async () => (await answer(api.GET("/api/sites/{site}/webhooks", { params: { path: { site } } }))).webhooks,
  });

export const webhookQuery = (site: string, id: string) =>
  queryOptions({
    queryKey: ["webhook", site, id],
    queryFn: async () =>
      (await answer(api.GET("/api/sites/{site}/webhooks/{id}", { params: { path: { site, id } } }))).webhook,
  });

const list = (site: string, id: string, query: DeliveryFilter & { limit?: number; cursor?: string }) =>
  answer(api.GET("/api/sites/{site}/webhooks/{id}/deliveries", { params: { path: { site, id }, query } }));

/** Of each webhook of a site: the last delivery, and how many of a day succeeded. */
export const pulseQuery = (site: string) =>
  queryOptions({
    queryKey: ["pulse", site],
    queryFn: async () => {
      const { pulses } = await answer(api.GET("/api/sites/{site}/pulse", { params: { path: { site } } }));
      return new Map(pulses.map((pulse) => [pulse.webhook_id, pulse]));
    },
  });

/** Of one webhook, or of all of the site's. */
async function page(site: string, webhook: string | undefined, filter: DeliveryFilter, cursor?: string) {
  const query = { ...filter, limit: PAGE, ...(cursor ? { cursor } : {}) };
  return webhook ? list(site, webhook, query) : answer(api.GET("/api/sites/{site}/deliveries", { params: { path: { site }, query } }));
}

export const deliveriesQuery = (site: string, webhook: string | undefined, filter: DeliveryFilter) =>
  infiniteQueryOptions({
    queryKey: ["deliveries", site, webhook ?? "", filter],
    queryFn: ({ pageParam }) => page(site, webhook, filter, pageParam),
    initialPageParam: "",
    getNextPageParam: (last) => last.pagination.next_cursor ?? undefined,
  });

/** The newest page by itself: what came since the list was drawn is in it. */
export const freshQuery = (site: string, webhook: string | undefined, filter: DeliveryFilter) =>
  queryOptions({
    queryKey: ["fresh", site, webhook ?? "", filter],
    queryFn: () => page(site, webhook, filter),
  });

export const deliveryQuery = (site: string, id: string, delivery_id: string) =>
  queryOptions({
    queryKey: ["delivery", site, id, delivery_id],
    queryFn: async () =>
      (await answer(api.GET("/api/sites/{site}/webhooks/{id}/deliveries/{delivery_id}", { params: { path: { site, id, delivery_id } } }))).delivery,
  });

/** What the built-in inbox took of a webhook. */
export const inboxQuery = (site: string, id: string) =>
  queryOptions({
    queryKey: ["inbox", site, id],
    queryFn: async () => (await answer(api.GET("/api/sites/{site}/webhooks/{id}/inbox", { params: { path: { site, id } } }))).requests,
  });

export const resendsQuery = (site: string, id: string) =>
  queryOptions({
    queryKey: ["resends", site, id],
    queryFn: async () =>
      (await answer(api.GET("/api/sites/{site}/webhooks/{id}/resends", { params: { path: { site, id } } }))).resends,
  });

export const keysQuery = queryOptions({
  queryKey: ["keys"],
  queryFn: async () => (await answer(api.GET("/api/keys"))).keys,
});

export const membersQuery = queryOptions({
  queryKey: ["members"],
  queryFn: async () => (await answer(api.GET("/api/members"))).members,
});

export const invitationsQuery = queryOptions({
  queryKey: ["invitations"],
  queryFn: async () => (await answer(api.GET("/api/invitations"))).invitations,
});

export const sessionsQuery = queryOptions({
  queryKey: ["sessions"],
  queryFn: async () => (await answer(api.GET("/api/sessions"))).sessions,
});

/** What a link to join an account is for. Asked once: asking often is held against a stranger. */
export const invitedQuery = (token: string) =>
  queryOptions({
    queryKey: ["invited", token],
    queryFn: () => answer(api.POST("/api/invitations/look", { body: { token } })),
    staleTime: Infinity,
    refetchOnWindowFocus: false,
  });

/** Why nobody can sign up here, or null. Asked with nothing filled in, which is refused in one way or the other. */
export const signUpClosedQuery = queryOptions({
  queryKey: ["sign-up"],
  queryFn: async () => {
    const { error } = await api.POST("/api/sign-up", { body: { account: "", email: "", password: "" } });
    return error?.code === "sign_up_closed" ? (error.detail ?? "") : null;
  },
  staleTime: Infinity,
  refetchOnWindowFocus: false,
});

export const auditQuery = infiniteQueryOptions({
  queryKey: ["audit"],
  queryFn: ({ pageParam }) =>
    answer(api.GET("/api/audit", { params: { query: pageParam ? { cursor: pageParam } : {} } })),
  initialPageParam: "",
  getNextPageParam: (last) => last.next_cursor ?? undefined,
});

export const operationQuery = queryOptions({
  queryKey: ["operation"],
  queryFn: () => answer(api.GET("/api/operation")),
});

export const readyQuery = queryOptions({
  queryKey: ["ready"],
  queryFn: async () => {
    // 503 has the same body: which part does not answer.
    const { data, error } = await api.GET("/health/ready");
    return data ?? error;
  },
});

export const metricsQuery = queryOptions({
  queryKey: ["metrics"],
  queryFn: async () => {
    const response = await fetch(`${home}/metrics`);
    return response.ok ? await response.text() : null;
  },
});
