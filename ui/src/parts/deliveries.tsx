import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useRouter, useSearch } from "@tanstack/react-router";
import { memo, useEffect, useRef, useState, type MouseEvent } from "react";
import { api, answer, home, type Delivery } from "../api/client";
import { deliveriesQuery, freshQuery, type DeliveryFilter } from "../api/queries";
import { ago, fromInput, number, toInput } from "../format";
import type { Tone } from "../health";
import { eventSentence } from "../sentences";
import { text } from "../text";
import { tell } from "./toast";
import { Asked, Badge, Button, Card, Dialog, Empty, Moment, ProblemNotice, SelectField, TextField } from "./ui";

const words = text.deliveries;
export const STATUS_TONES: Record<string, Tone> = {
  pending: "plain", sending: "warn", retrying: "warn", success: "good", failed: "bad", cancelled: "plain",
};
const TYPES = Object.entries(text.triggers.names);

/** A webhook's deliveries. The filters are in the address; nothing moves under the pointer: what is new waits for a click. */
export function Deliveries({ site, webhook }: { site: string; webhook: string }) {
  const filter = useSearch({ from: "/shell/sites/$site/webhooks/$webhook" });
  const client = useQueryClient();
  const [range, setRange] = useState(false);
  // Asked anew only when somebody wants it: rows that are drawn keep their places.
  const list = useInfiniteQuery({ ...deliveriesQuery(site, webhook, filter), refetchOnWindowFocus: false, staleTime: Infinity, structuralSharing: false });
  const fresh = useQuery(freshQuery(site, webhook, filter));
  const drawn = (list.data?.pages ?? []).flatMap((page) => page.deliveries);
  const ids = new Set(drawn.map(({ id }) => id));
  const newest = new Map((fresh.data?.deliveries ?? []).map((delivery) => [delivery.id, delivery]));
  const waiting = list.data && !list.isFetching ? [...newest.keys()].filter((id) => !ids.has(id)).length : 0;
  const filtered = Object.values(filter).some(Boolean);
  const total = fresh.data?.pagination.total_count ?? list.data?.pages[0]?.pagination.total_count ?? 0;

  // Nothing is drawn yet, so nothing can move.
  const empty = !!list.data && drawn.length === 0;
  useEffect(() => {
    if (empty && waiting > 0) void client.resetQueries({ queryKey: ["deliveries", site, webhook] });
  }, [empty, waiting, client, site, webhook]);

  const end = useRef<HTMLDivElement>(null);
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  const rows = drawn.length;
  useEffect(() => {
    if (!end.current || !hasNextPage) return;
    const watcher = new IntersectionObserver((seen) => {
      // Of several the last one holds.
      if (seen.at(-1)?.isIntersecting && !isFetchingNextPage) void fetchNextPage();
    }, { rootMargin: "600px" });
    watcher.observe(end.current);
    return () => watcher.disconnect();
    // A watcher speaks when something changes; who jumps to the end just as rows arrive changes nothing. A new one looks afresh.
  }, [hasNextPage, isFetchingNextPage, fetchNextPage, rows]);

  return (
    <Card title={words.title} actions={<Button small icon="repeat" onClick={() => setRange(true)}>{words.resendRange}</Button>}>
      <Filters filter={filter} />
      <div aria-live="polite" className="flex min-h-10 items-center gap-3 border-b border-line px-5 py-1.5 text-sm text-muted">
        <span className="tabular-nums">{words.count(number(total))}</span>
        {waiting > 0 && !empty && <Button small look="main" onClick={() => void client.resetQueries({ queryKey: ["deliveries", site, webhook] })}>{words.fresh(waiting)}</Button>}
      </div>
      <Asked query={list}>
        {() =>
          drawn.length === 0 ? (
            <Empty title={filtered ? words.noneTitle : words.emptyTitle} icon="send">{filtered ? words.none : words.empty}</Empty>
          ) : (
            list.data!.pages.map((page, index) => (
              <ul key={page.deliveries[0]?.id ?? index} className={`divide-y divide-line border-line not-first:border-t ${page.deliveries.length > 20 ? "page-lazy" : ""}`}>
                {page.deliveries.map((delivery) => <Row key={delivery.id} site={site} delivery={newest.get(delivery.id) ?? delivery} />)}
              </ul>
            ))
          )
        }
      </Asked>
      {hasNextPage && (
        <div ref={end} className="border-t border-line p-4 text-center">
          <Button busy={isFetchingNextPage} onClick={() => void fetchNextPage()}>{text.common.more}</Button>
        </div>
      )}
      <Dialog open={range} title={words.rangeTitle} onClose={() => setRange(false)}>
        <ResendRange site={site} webhook={webhook} filter={filter} onClose={() => setRange(false)} />
      </Dialog>
    </Card>
  );
}

/** There may be thousands: drawn again only when something of it changed, and no `Link`, each of which follows the router. */
const Row = memo(function Row({ site, delivery }: { site: string; delivery: Delivery }) {
  const router = useRouter();
  const to = { to: "/sites/$site/webhooks/$webhook/deliveries/$delivery", params: { site, webhook: delivery.webhook_id, delivery: delivery.id } } as const;
  const open = (event: MouseEvent) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || event.button !== 0) return;
    event.preventDefault();
    void router.navigate(to);
  };
  return (
    <li>
      <a
        href={`${home}/sites/${encodeURIComponent(site)}/webhooks/${delivery.webhook_id}/deliveries/${delivery.id}`}
        onClick={open}
        className="grid gap-x-4 gap-y-1 px-5 py-3 text-sm -outline-offset-2! hover:bg-sunken sm:grid-cols-[8rem_minmax(0,1fr)_auto] sm:items-center"
      >
        <span><Badge tone={STATUS_TONES[delivery.status] ?? "plain"}>{words.statuses[delivery.status] ?? delivery.status}</Badge></span>
        <span className="min-w-0">
          <span className="block font-medium sm:truncate">{eventSentence(delivery)}</span>
          <span className="block text-muted sm:truncate">
            {delivery.status === "success" ? text.triggers.names[delivery.event_type] : (delivery.error_message ?? text.triggers.names[delivery.event_type] ?? delivery.event_type)}
          </span>
        </span>
        <span className="text-muted tabular-nums sm:text-right">
          <span className="sm:block"><Moment at={delivery.inserted_at} /></span>
          <span className="sm:hidden"> · </span>
          <span className="sm:block">
            {delivery.response_code ? `${delivery.response_code} · ` : ""}{words.attempts(delivery.attempt)}
            {delivery.status === "retrying" && delivery.next_attempt_at && ` · ${words.next(ago(delivery.next_attempt_at))}`}
          </span>
        </span>
      </a>
    </li>
  );
});

function Filters({ filter }: { filter: DeliveryFilter }) {
  const navigate = useNavigate({ from: "/sites/$site/webhooks/$webhook" });
  const set = (part: DeliveryFilter) =>
    void navigate({
      search: (before) => Object.fromEntries(Object.entries({ ...before, ...part }).filter(([, value]) => value)) as DeliveryFilter,
      resetScroll: false,
      replace: true,
    });
  const any = Object.values(filter).some(Boolean);
  return (
    <form aria-label={words.filters} onSubmit={(event) => event.preventDefault()} className="grid grid-cols-1 items-end gap-3 border-b border-line px-5 py-4 min-[28rem]:grid-cols-2 lg:grid-cols-[repeat(4,minmax(0,1fr))_auto]">
      <SelectField label={words.status} value={filter.status ?? ""} onChange={(event) => set({ status: event.target.value })} options={[["", words.anyStatus], ...Object.entries(words.statuses)]} />
      <SelectField label={words.trigger} value={filter.trigger_type ?? ""} onChange={(event) => set({ trigger_type: event.target.value })} options={[["", words.anyTrigger], ...TYPES]} />
      <TextField label={words.from} type="datetime-local" value={toInput(filter.from)} onChange={(event) => set({ from: fromInput(event.target.value) ?? "" })} />
      <TextField label={words.to} type="datetime-local" value={toInput(filter.to)} onChange={(event) => set({ to: fromInput(event.target.value) ?? "" })} />
      {any && <Button look="quiet" onClick={() => set({ status: "", trigger_type: "", from: "", to: "" })}>{words.clear}</Button>}
    </form>
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
