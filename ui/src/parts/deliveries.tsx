import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { useRouter } from "@tanstack/react-router";
import { memo, useCallback, useEffect, useMemo, useState, type MouseEvent } from "react";
import { api, answer, home, type Delivery, type Webhook } from "../api/client";
import { deliveriesQuery, freshQuery, type DeliveryFilter } from "../api/queries";
import { due, fromInput, number, toInput } from "../format";
import type { Tone } from "../health";
import { useNarrow } from "../narrow";
import { eventSentence } from "../sentences";
import { text } from "../text";
import { Rows } from "./rows";
import { Writes } from "./writes";
import { tell } from "./toast";
import { Asked, Badge, Button, ButtonLink, Card, Dialog, Empty, Moment, ProblemNotice, SelectField, TextField } from "./ui";

const words = text.deliveries;
export const STATUS_TONES: Record<string, Tone> = {
  pending: "plain", sending: "warn", retrying: "warn", success: "good", failed: "bad", cancelled: "plain",
};
const TYPES = Object.entries(text.triggers.names);

interface Props {
  site: string;
  /** Of which webhook; of all of the site's when absent. */
  webhook?: string;
  /** Those of the site, for a list of all. */
  webhooks?: Webhook[] | undefined;
  filter: DeliveryFilter;
  onFilter: (filter: DeliveryFilter) => void;
}

/** The filters are in the address; nothing moves under the pointer: what is new waits for a click. */
export function Deliveries({ site, webhook, webhooks, filter, onFilter }: Props) {
  const client = useQueryClient();
  const [range, setRange] = useState(false);
  // Asked anew only when somebody wants it: rows that are drawn keep their places.
  const list = useInfiniteQuery({ ...deliveriesQuery(site, webhook, filter), refetchOnWindowFocus: false, staleTime: Infinity, structuralSharing: false });
  const fresh = useQuery(freshQuery(site, webhook, filter));
  const drawn = useMemo(() => (list.data?.pages ?? []).flatMap((page) => page.deliveries), [list.data]);
  const ids = useMemo(() => new Set(drawn.map(({ id }) => id)), [drawn]);
  const newest = useMemo(() => new Map((fresh.data?.deliveries ?? []).map((delivery) => [delivery.id, delivery])), [fresh.data]);
  const names = useMemo(() => webhooks && new Map(webhooks.map(({ id, name }) => [id, name])), [webhooks]);
  const waiting = list.data && !list.isFetching ? [...newest.keys()].filter((id) => !ids.has(id)).length : 0;
  const filtered = Object.values(filter).some(Boolean);
  const total = fresh.data?.pagination.total_count ?? list.data?.pages[0]?.pagination.total_count ?? 0;
  const again = useCallback(() => void client.resetQueries({ queryKey: ["deliveries", site, webhook ?? ""] }), [client, site, webhook]);

  // Nothing is drawn yet, so nothing can move.
  const empty = !!list.data && drawn.length === 0;
  /** Filters would have nothing to leave out. */
  const nothing = empty && !filtered;
  useEffect(() => {
    if (empty && waiting > 0) again();
  }, [empty, waiting, again]);

  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  const more = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);

  return (
    <Card {...(webhook ? { title: words.title, actions: !nothing && <Writes><Button small icon="repeat" onClick={() => setRange(true)}>{words.resendRange}</Button></Writes> } : {})}>
      {!nothing && <Filters filter={filter} webhooks={webhooks} onFilter={onFilter} />}
      <div aria-live="polite" className={nothing ? "sr-only" : "flex min-h-10 items-center gap-3 border-b border-line px-5 py-1.5 text-sm text-muted"}>
        <span className="tabular-nums">{words.count(number(total))}</span>
        {filtered && <Button small look="quiet" className="-my-1" onClick={() => onFilter({})}>{words.clear}</Button>}
        {waiting > 0 && !empty && <Button small look="main" onClick={again}>{words.fresh(waiting)}</Button>}
      </div>
      <Asked query={list}>
        {() =>
          drawn.length === 0 ? (
            <Nothing site={site} filtered={filtered} webhook={webhook} webhooks={webhooks} />
          ) : (
            <Rows label={words.title} items={drawn} keyOf={idOf} onNearEnd={more}>
              {(listed) => {
                const delivery = newest.get(listed.id) ?? listed;
                return <Row site={site} delivery={delivery} name={names && (names.get(delivery.webhook_id) ?? words.deletedWebhook)} />;
              }}
            </Rows>
          )
        }
      </Asked>
      {hasNextPage && (
        <div className="border-t border-line p-4 text-center">
          <Button busy={isFetchingNextPage} onClick={more}>{text.common.more}</Button>
        </div>
      )}
      {webhook && (
        <Dialog open={range} title={words.rangeTitle} onClose={() => setRange(false)}>
          <ResendRange site={site} webhook={webhook} filter={filter} onClose={() => setRange(false)} />
        </Dialog>
      )}
    </Card>
  );
}

const idOf = ({ id }: Delivery) => id;

/** Why there is none, and what to do about it. */
function Nothing({ site, filtered, webhook, webhooks }: Pick<Props, "site" | "webhook" | "webhooks"> & { filtered: boolean }) {
  if (filtered) return <Empty title={words.noneTitle} icon="send" >{words.none}</Empty>;
  if (webhook) return <Empty title={words.emptyTitle} icon="send">{words.empty}</Empty>;
  if (webhooks?.length === 0) return <Empty title={words.emptyTitle} icon="send" action={<Writes><ButtonLink to="/sites/$site/webhooks/new" params={{ site }} look="main" icon="plus">{text.webhooks.add}</ButtonLink></Writes>}>{words.emptyNoWebhook}</Empty>;
  return <Empty title={words.emptyTitle} icon="send" action={<ButtonLink to="/sites/$site/webhooks" params={{ site }}>{words.toWebhooks}</ButtonLink>}>{words.emptySite}</Empty>;
}

/** There may be thousands: drawn again only when something of it changed, and no `Link`, each of which follows the router. */
const Row = memo(function Row({ site, delivery, name }: { site: string; delivery: Delivery; name: string | undefined }) {
  const router = useRouter();
  const to = { to: "/sites/$site/webhooks/$webhook/deliveries/$delivery", params: { site, webhook: delivery.webhook_id, delivery: delivery.id } } as const;
  const open = (event: MouseEvent) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || event.button !== 0) return;
    event.preventDefault();
    void router.navigate(to);
  };
  const type = text.triggers.names[delivery.event_type] ?? delivery.event_type;
  const said = (delivery.status !== "success" && delivery.error_message) || (delivery.event_type === "test" ? words.byHand : type);
  return (
    <a
      href={`${home}/sites/${encodeURIComponent(site)}/webhooks/${delivery.webhook_id}/deliveries/${delivery.id}`}
      onClick={open}
      className="grid h-full content-center gap-x-4 gap-y-1 px-5 text-sm -outline-offset-2! hover:bg-sunken sm:grid-cols-[8rem_minmax(0,1fr)_auto] sm:items-center"
    >
      <span className="max-sm:flex max-sm:items-center max-sm:justify-between">
        <Badge tone={STATUS_TONES[delivery.status] ?? "plain"}>{words.statuses[delivery.status] ?? delivery.status}</Badge>
        <span className="text-muted sm:hidden"><Moment at={delivery.inserted_at} /></span>
      </span>
      <span className="min-w-0">
        <span className="block truncate font-medium">{eventSentence(delivery)}</span>
        <span className="block truncate text-muted">{name ? `${name} · ${said}` : said}</span>
      </span>
      <span className="truncate text-muted tabular-nums sm:text-right">
        <span className="max-sm:hidden sm:block"><Moment at={delivery.inserted_at} /></span>
        <span className="sm:block">
          {delivery.response_code ? `${delivery.response_code} · ` : ""}{words.attempts(delivery.attempt)}
          {delivery.status === "retrying" && delivery.next_attempt_at && ` · ${words.next(due(delivery.next_attempt_at))}`}
        </span>
      </span>
    </a>
  );
});

function Filters({ filter, webhooks, onFilter }: Pick<Props, "filter" | "webhooks" | "onFilter">) {
  const set = (part: DeliveryFilter) => onFilter(Object.fromEntries(Object.entries({ ...filter, ...part }).filter(([, value]) => value)));
  const narrow = useNarrow();
  const fields = (
    <form aria-label={words.filters} onSubmit={(event) => event.preventDefault()} className="flex flex-wrap items-end gap-3 px-5 py-4 *:min-w-0 *:flex-1 *:basis-40">
      {webhooks && (
        <SelectField label={words.webhook} value={filter.webhook_id ?? ""} onChange={(event) => set({ webhook_id: event.target.value })} options={[["", words.anyWebhook], ...webhooks.map(({ id, name }): [string, string] => [id, name])]} />
      )}
      <SelectField label={words.status} value={filter.status ?? ""} onChange={(event) => set({ status: event.target.value })} options={[["", words.anyStatus], ...Object.entries(words.statuses)]} />
      <SelectField label={words.trigger} value={filter.trigger_type ?? ""} onChange={(event) => set({ trigger_type: event.target.value })} options={[["", words.anyTrigger], ...TYPES]} />
      <div className="basis-56!"><TextField label={words.from} type="datetime-local" value={toInput(filter.from)} onChange={(event) => set({ from: fromInput(event.target.value) ?? "" })} /></div>
      <div className="basis-56!"><TextField label={words.to} type="datetime-local" value={toInput(filter.to)} onChange={(event) => set({ to: fromInput(event.target.value) ?? "" })} /></div>
    </form>
  );
  const count = Object.values(filter).filter(Boolean).length;
  // On a phone they would fill the window before the first delivery.
  if (!narrow) return <div className="border-b border-line">{fields}</div>;
  return (
    <details className="border-b border-line">
      <summary className="px-5 py-3 text-sm font-medium -outline-offset-2!">{count ? words.filtersOn(count) : words.filters}</summary>
      <div className="border-t border-line">{fields}</div>
    </details>
  );
}

/** First how many, then the deed. */
function ResendRange({ site, webhook, filter, onClose }: { site: string; webhook: string; filter: DeliveryFilter; onClose: () => void }) {
  const client = useQueryClient();
  const [status, setStatus] = useState("failed");
  const [from, setFrom] = useState(toInput(filter.from));
  const [to, setTo] = useState(toInput(filter.to));
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const params = { path: { site, id: webhook } };
  const [since, until] = [fromInput(from), fromInput(to)];
  const body = { status, ...(since ? { from: since } : {}), ...(until ? { to: until } : {}) };
  const count = useQuery({
    queryKey: ["range", site, webhook, body],
    queryFn: () => answer(api.POST("/api/sites/{site}/webhooks/{id}/resend", { params, body: { ...body, dry_run: true } })),
  });
  const start = async () => {
    setBusy(true);
    setProblem(null);
    try {
      await answer(api.POST("/api/sites/{site}/webhooks/{id}/resend", { params, body }));
      await client.invalidateQueries({ queryKey: ["resends", site, webhook] });
      tell(words.rangeStarted);
      onClose();
    } catch (error) {
      setProblem(error);
    } finally {
      setBusy(false);
    }
  };
  return (
    <div className="grid gap-4">
      <p className="text-muted">{words.rangeLead}</p>
      <SelectField label={words.rangeWhich} value={status} onChange={(event) => setStatus(event.target.value)} options={["failed", "success", "cancelled"].map((one) => [one, words.statuses[one] ?? one])} />
      <div className="grid gap-4 sm:grid-cols-2">
        <TextField label={words.from} optional type="datetime-local" value={from} onChange={(event) => setFrom(event.target.value)} />
        <TextField label={words.to} optional type="datetime-local" value={to} onChange={(event) => setTo(event.target.value)} />
      </div>
      <p aria-live="polite" className="font-medium">{count.data ? words.rangeCount(number(count.data.count)) : count.error ? "" : words.rangeCounting}</p>
      <ProblemNotice problem={problem ?? count.error} />
      <div className="flex justify-end gap-2">
        <Button onClick={onClose}>{text.common.cancel}</Button>
        <Button look="main" busy={busy} disabled={!count.data?.count} onClick={() => void start()}>{words.rangeStart}</Button>
      </div>
    </div>
  );
}
