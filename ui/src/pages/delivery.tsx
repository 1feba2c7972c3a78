import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { lazy, Suspense, useMemo, useState } from "react";
import { aroundQuery } from "../api/backtest";
import { api, answer, INBOX, type Attempt, type Delivery, type TriggerBody, type Webhook } from "../api/client";
import { deliveryQuery, webhookQuery } from "../api/queries";
import { due, exact, pretty, shortUrl, span, time, zone } from "../format";
import { useLive } from "../live";
import { STATUS_TONES } from "../parts/deliveries";
import { Phases } from "../parts/phases";
import { tell } from "../parts/toast";
import { isChange, trimmed } from "../parts/trigger-fields";
import { Asked, Badge, Button, Card, Code, Confirm, Copy, Head, Loading, Moment, Notice, Pairs } from "../parts/ui";
import { Writes } from "../parts/writes";
import { eventSentence } from "../sentences";
import { text } from "../text";

const Chart = lazy(async () => ({ default: (await import("../parts/chart")).Chart }));
const words = text.deliveries;
const ENDED = ["success", "failed", "cancelled"];

export function DeliveryPage() {
  const { site, webhook: id, delivery: deliveryId } = useParams({ from: "/shell/sites/$site/webhooks/$webhook/deliveries/$delivery" });
  const delivery = useQuery(deliveryQuery(site, id, deliveryId));
  const webhook = useQuery(webhookQuery(site, id));
  useLive(["delivery", site, id, deliveryId]);
  return (
    <Asked query={delivery} whole>
      {(known) => {
        const attempts = known.attempts ?? [];
        const last = attempts.at(-1);
        return (
          <>
            <Head
              title={eventSentence(known)}
              above={<Link to="/sites/$site/webhooks/$webhook" params={{ site, webhook: id }} className="link">{webhook.data?.name ?? text.webhooks.title}</Link>}
              badge={<Badge tone={STATUS_TONES[known.status] ?? "plain"}>{words.statuses[known.status] ?? known.status}</Badge>}
              lead={<><Moment at={known.inserted_at} exactly /> · {words.attempts(known.attempt)}</>}
            >
              <Writes><ResendButton site={site} delivery={known} /></Writes>
            </Head>
            <div className="grid gap-6">
              <Diagnosis delivery={known} webhook={webhook.data} />
              <div className="grid items-start gap-6 lg:grid-cols-2">
                <Card title={words.timeline} lead={text.common.zone(zone)}><Timeline delivery={known} attempts={attempts} /></Card>
                <Response attempt={last} />
              </div>
              <Around site={site} delivery={known} webhook={webhook.data} />
              <Request delivery={known} webhook={webhook.data} />
            </div>
          </>
        );
      }}
    </Asked>
  );
}

function ResendButton({ site, delivery }: { site: string; delivery: Delivery }) {
  const client = useQueryClient();
  const [asking, setAsking] = useState(false);
  const underWay = delivery.status === "pending" || delivery.status === "sending";
  const send = async () => {
    await answer(api.POST("/api/sites/{site}/webhooks/{id}/deliveries/{delivery_id}/resend", { params: { path: { site, id: delivery.webhook_id, delivery_id: delivery.id } } }));
    await client.invalidateQueries({ queryKey: ["delivery", site, delivery.webhook_id, delivery.id] });
    tell(words.resent);
  };
  const now = async () => {
    try {
      await send();
    } catch (error) {
      tell((error as Error).message);
    }
  };
  return (
    <>
      {/* What waits for its next attempt need not wait for whoever has mended the endpoint. */}
      <Button look="main" icon="repeat" disabled={underWay} onClick={() => (delivery.status === "success" ? setAsking(true) : void now())}>{delivery.status === "retrying" ? words.tryNow : words.resend}</Button>
      <Confirm open={asking} title={words.resendAgainTitle} yes={words.resend} onYes={send} onClose={() => setAsking(false)}>{words.resendAgain}</Confirm>
    </>
  );
}

/** What went wrong, or why it waits, and what to do. */
function Diagnosis({ delivery, webhook }: { delivery: Delivery; webhook: Webhook | undefined }) {
  const { status, error_message: error, reason } = delivery;
  if (status === "success") return null;
  if (!ENDED.includes(status) && webhook) {
    const waits =
      webhook.status === "paused" ? words.waitsPaused
      : webhook.status === "disabled" ? words.waitsDisabled
      : webhook.left_alone_until ? words.waitsApart(due(webhook.left_alone_until))
      : null;
    if (waits) return <Notice tone="warn" title={words.waits}><p>{[error, waits].filter(Boolean).join(" ")}</p></Notice>;
  }
  // That it is gone is said by the error already.
  const why = reason && !(reason === "endpoint_gone" && error) ? (words.reasons[reason] ?? reason) : "";
  const said = [error, why].filter(Boolean).join(" ");
  if (!said) return null;
  const sent = status !== "cancelled";
  return <Notice tone={status === "failed" ? "bad" : sent ? "warn" : "plain"} title={sent ? words.diagnosis : words.notSent}><p>{said}</p></Notice>;
}

/** The site's visitors before and after, as they are known today, and what was usual. */
function Around({ site, delivery, webhook }: { site: string; delivery: Delivery; webhook: Webhook | undefined }) {
  const type = delivery.event_type.replace(/_ended$/, "");
  const moment = Date.parse(delivery.inserted_at);
  const trigger = webhook?.triggers.find(({ id }) => id === delivery.trigger_id);
  const { baseline, sensitivity, threshold, min_visitors, page, source, country, hostname } = trigger ?? {};
  const settings = trimmed({ type, baseline, sensitivity, threshold, min_visitors, page, source, country, hostname } as TriggerBody);
  const around = useQuery({
    ...aroundQuery(site, settings, moment),
    enabled: isChange(type) && webhook !== undefined,
  });
  const told = useMemo(
    () => around.data && { series: around.data.series, firings: [{ timestamp: delivery.inserted_at }] },
    [around.data, delivery.inserted_at],
  );
  const none = useMemo(() => told?.series.map(() => undefined) ?? [], [told]);
  if (!told) return null;
  return (
    <Card title={words.chart} lead={text.common.zone(zone)}>
      <div className="p-5">
        {told.series.length === 0 ? (
          <p className="text-sm text-muted">{words.chartNone}</p>
        ) : (
          <Suspense fallback={<Loading />}><Chart told={told} summary={words.chartSaid(eventSentence(delivery))} threshold={none} /></Suspense>
        )}
      </div>
    </Card>
  );
}

function Timeline({ delivery, attempts }: { delivery: Delivery; attempts: Attempt[] }) {
  const open = !ENDED.includes(delivery.status);
  return (
    <ol className="px-5 py-4">
      {attempts.length === 0 && !open && <li className="text-sm text-muted">{words.noAttempts}</li>}
      {attempts.map((attempt) => {
        const good = attempt.outcome === "success";
        return (
          <li key={attempt.number} className="relative border-l-2 border-line pb-5 pl-5 last:border-transparent last:pb-1">
            <span aria-hidden="true" className={`absolute top-1.5 -left-[7px] size-3 rounded-full ${good ? "bg-good" : "bg-bad"}`} />
            <p className="flex flex-wrap items-baseline justify-between gap-x-3">
              <span className="font-medium">{words.attempt(attempt.number)}{attempt.response_code ? ` ${words.answered(attempt.response_code)}` : ""}</span>
              <span className="text-sm text-muted tabular-nums"><time dateTime={attempt.started_at} title={exact(attempt.started_at)}>{time(attempt.started_at, delivery.inserted_at)}</time> · {span(attempt.duration_ms)}</span>
            </p>
            <p className="text-sm text-muted"><span className={good ? "text-good" : "text-bad"}>{good ? words.statuses["success"] : attempt.outcome}</span>{attempt.error_message ? `: ${attempt.error_message}` : ""}</p>
            <Phases attempt={attempt} />
          </li>
        );
      })}
      {open && (
        <li className="relative border-l-2 border-transparent pl-5">
          <span aria-hidden="true" className="absolute top-1.5 -left-[7px] size-3 rounded-full border-2 border-edge bg-surface" />
          <p className="font-medium text-muted">{words.nextAttempt} {delivery.next_attempt_at && <span title={exact(delivery.next_attempt_at)}>{due(delivery.next_attempt_at)}</span>}</p>
        </li>
      )}
    </ol>
  );
}

function Headers({ headers }: { headers: [string, string][] }) {
  if (headers.length === 0) return null;
  return <Code label={words.headers} copy={false}>{headers.map(([name, value]) => `${name}: ${value}`).join("\n")}</Code>;
}

function Response({ attempt }: { attempt: Attempt | undefined }) {
  return (
    <Card title={words.response} lead={attempt ? words.responses(attempt.number) : undefined}>
      <div className="grid gap-3 p-5">
        {!attempt?.response_code ? (
          <p className="text-sm text-muted">{attempt ? words.noResponse : words.nothingSent}</p>
        ) : (
          <>
            <Headers headers={[["status", String(attempt.response_code)], ...Object.entries(attempt.response_headers)]} />
            {attempt.response_body ? <Code label={words.body}>{attempt.response_body}</Code> : <p className="text-sm text-muted">{words.emptyBody}</p>}
          </>
        )}
      </div>
    </Card>
  );
}

function Request({ delivery, webhook }: { delivery: Delivery; webhook: Webhook | undefined }) {
  const payload = delivery.payload as unknown;
  const sent = typeof payload === "string" ? payload : JSON.stringify(payload);
  const quoted = `'${sent.replaceAll("'", String.raw`'\''`)}'`;
  const where = webhook ? shortUrl(webhook.url) : null;
  const headers: [string, string][] = [
    ["webhook-id", delivery.id],
    ["webhook-timestamp", words.signature],
    ...(webhook?.secret ? ([["webhook-signature", words.signature], ["X-Webhook-Signature", words.signature]] as [string, string][]) : []),
    ["X-Webhook-Event-ID", delivery.event_id],
    ["X-Webhook-Event-Type", delivery.event_type],
    ...Object.entries(webhook?.headers ?? {}),
  ];
  return (
    <Card title={words.request} lead={words.requestWhy} actions={webhook && webhook.url !== INBOX && <Copy label={words.curl} value={`curl -X POST '${webhook.url}' \\\n  -H 'content-type: application/json' \\\n  -H 'webhook-id: ${delivery.id}' \\\n  --data-raw ${quoted}`} />}>
      {where && <Pairs rows={[["POST", <><span className="font-medium">{where.host}</span>{where.path}</>], [words.eventId, <span className="font-mono text-xs">{delivery.event_id}</span>]]} />}
      <div className="grid min-w-0 gap-3 px-5 pb-5">
        <Headers headers={headers} />
        <Code label={words.body}>{pretty(payload)}</Code>
      </div>
    </Card>
  );
}
