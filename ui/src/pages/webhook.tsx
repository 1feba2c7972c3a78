import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer, INBOX, type Trigger, type Webhook, type WebhookBody } from "../api/client";
import { goalsQuery, pulseQuery, resendsQuery, webhookQuery } from "../api/queries";
import { exact, number, shortUrl, wait } from "../format";
import { healthOf } from "../health";
import { useLive } from "../live";
import { Deliveries } from "../parts/deliveries";
import { Inbox } from "../parts/inbox";
import { Secret } from "../parts/secret";
import { Test } from "../parts/test";
import { tell } from "../parts/toast";
import { Asked, Badge, Button, ButtonLink, Card, Confirm, Head, Moment, Notice, Pairs } from "../parts/ui";
import { Writes } from "../parts/writes";
import { keepSecret } from "../secrets";
import { triggerSentence } from "../sentences";
import { text } from "../text";

const words = text.webhooks;

export function WebhookPage() {
  const { site, webhook: id } = useParams({ from: "/shell/sites/$site/webhooks/$webhook" });
  const filter = useSearch({ from: "/shell/sites/$site/webhooks/$webhook" });
  const navigate = useNavigate({ from: "/sites/$site/webhooks/$webhook" });
  const webhook = useQuery(webhookQuery(site, id));
  const pulses = useQuery(pulseQuery(site));
  const pulse = pulses.data?.get(id);
  useLive(["webhook", site, id], ["pulse", site], ["fresh", site, id], ["resends", site, id], ["inbox", site, id]);
  return (
    <Asked query={webhook} whole>
      {(known) => {
        const health = pulse && healthOf(known, pulse.last);
        const { host, path } = shortUrl(known.url);
        return (
          <>
            <Head
              title={known.name}
              above={<Link to="/sites/$site/webhooks" params={{ site }} className="link">{words.title}</Link>}
              badge={health && <Badge tone={health.tone}>{words.health[health.word]}</Badge>}
              // The line is there before its text, or what is below would move while somebody clicks it.
              lead={<><span className="text-ink">{host}</span>{path}<span className="block text-sm">{health?.why || "\u00a0"}</span></>}
            >
              <Writes><Actions site={site} webhook={known} /></Writes>
            </Head>
            <div className="grid gap-6">
              <Secret id={id} />
              <Writes><Test site={site} webhook={known.id} /></Writes>
              {known.url === INBOX && <Inbox site={site} webhook={known} />}
              <div className="grid items-start gap-6 lg:grid-cols-[3fr_2fr]">
                <Triggers site={site} webhook={known} />
                <Details webhook={known} />
              </div>
              <Resends site={site} id={id} />
              <Deliveries site={site} webhook={id} filter={filter} onFilter={(search) => void navigate({ search, resetScroll: false, replace: true })} />
            </div>
          </>
        );
      }}
    </Asked>
  );
}

function Actions({ site, webhook }: { site: string; webhook: Webhook }) {
  const client = useQueryClient();
  const navigate = useNavigate();
  const [asking, setAsking] = useState<"rotate" | "delete" | null>(null);
  const params = { path: { site, id: webhook.id } };
  const close = () => setAsking(null);
  const setActive = async (active: boolean) => {
    try {
      // Any part of a webhook may be sent; the document names what a new one needs.
      await answer(api.PATCH("/api/sites/{site}/webhooks/{id}", { params, body: { active } as WebhookBody }));
      tell(active ? words.resumed : words.paused);
    } catch (error) {
      tell((error as Error).message);
    }
    await client.invalidateQueries({ queryKey: ["webhook", site, webhook.id] });
  };
  const rotate = async () => {
    const told = await answer(api.POST("/api/sites/{site}/webhooks/{id}/secret/rotate", { params, body: {} }));
    keepSecret(webhook.id, told.signing_secret, told.previous_valid_until ?? null);
    await client.invalidateQueries({ queryKey: ["webhook", site, webhook.id] });
    window.scrollTo({ top: 0 });
  };
  const remove = async () => {
    await answer(api.DELETE("/api/sites/{site}/webhooks/{id}", { params }));
    await navigate({ to: "/sites/$site/webhooks", params: { site } });
    await client.invalidateQueries({ queryKey: ["webhooks", site] });
  };
  const stopped = webhook.status === "paused" || webhook.status === "disabled";
  return (
    <div className="flex flex-wrap gap-2 max-sm:grid max-sm:w-full max-sm:grid-cols-2">
      <ButtonLink to="/sites/$site/webhooks/$webhook/edit" params={{ site, webhook: webhook.id }} icon="edit" small>{text.common.edit}</ButtonLink>
      <Button small icon={stopped ? "play" : "pause"} onClick={() => void setActive(stopped)}>
        {webhook.status === "disabled" ? words.enable : stopped ? words.resume : words.pause}
      </Button>
      <Button small icon="key" onClick={() => setAsking("rotate")}>{webhook.secret ? words.rotate : words.addSecret}</Button>
      <Button small look="danger" icon="trash" onClick={() => setAsking("delete")}>{text.common.delete}</Button>
      <Confirm open={asking === "rotate"} title={webhook.secret ? words.rotateTitle : words.addSecretTitle} yes={webhook.secret ? words.rotate : words.addSecret} onYes={rotate} onClose={close}>
        {webhook.secret ? words.rotateWhy : words.addSecretWhy}
      </Confirm>
      <Confirm open={asking === "delete"} title={words.deleteTitle} yes={text.common.delete} danger onYes={remove} onClose={close}>{words.deleteWhy}</Confirm>
    </div>
  );
}

function Triggers({ site, webhook }: { site: string; webhook: Webhook }) {
  const client = useQueryClient();
  const goals = useQuery(goalsQuery(site));
  const [deleting, setDeleting] = useState<Trigger | null>(null);
  const remove = async (trigger_id: string) => {
    await answer(api.DELETE("/api/sites/{site}/webhooks/{id}/triggers/{trigger_id}", { params: { path: { site, id: webhook.id, trigger_id } } }));
    await client.invalidateQueries({ queryKey: ["webhook", site, webhook.id] });
  };
  return (
    <Card title={words.triggers} actions={<Writes><ButtonLink to="/sites/$site/webhooks/$webhook/triggers/new" params={{ site, webhook: webhook.id }} small icon="plus">{text.triggers.add}</ButtonLink></Writes>}>
      {webhook.triggers.length === 0 ? (
        <div className="p-5"><Notice tone="warn">{text.triggers.empty}</Notice></div>
      ) : (
        <ul className="divide-y divide-line">
          {webhook.triggers.map((trigger) => {
            const name = text.triggers.names[trigger.type] ?? trigger.type;
            return (
              <li key={trigger.id} className="flex items-start gap-x-1 py-3 pr-3 pl-5">
                <div className="min-w-0 flex-1 [overflow-wrap:anywhere]">
                  <p className="font-medium">{name}</p>
                  <p className="text-sm text-muted">{triggerSentence(trigger, goals.data)}</p>
                </div>
                <Writes>
                  <ButtonLink to="/sites/$site/webhooks/$webhook/triggers/$trigger" params={{ site, webhook: webhook.id, trigger: trigger.id }} small look="quiet" icon="edit"><span className="sr-only">{text.common.edit} {name}</span></ButtonLink>
                  <Button small look="quiet" icon="trash" aria-label={`${text.common.delete} ${name}`} onClick={() => setDeleting(trigger)} />
                </Writes>
              </li>
            );
          })}
        </ul>
      )}
      <Confirm open={!!deleting} title={text.triggers.deleteTitle} yes={text.common.delete} danger onYes={() => remove(deleting!.id)} onClose={() => setDeleting(null)}>
        {deleting && <><p className="text-ink">{triggerSentence(deleting, goals.data)}</p><p className="mt-2">{text.triggers.deleteWhy}</p></>}
      </Confirm>
    </Card>
  );
}

function Details({ webhook }: { webhook: Webhook }) {
  const headers = Object.keys(webhook.headers);
  return (
    <Card title={words.details}>
      <Pairs
        rows={[
          [words.address, webhook.url === INBOX ? text.inbox.title : webhook.url],
          [words.format, words.formats[webhook.format] ?? webhook.format],
          [words.secret, <>{webhook.secret ? words.signed : words.unsigned}{webhook.previous_secret_valid_until && <span className="block text-muted">{words.previousSecret(exact(webhook.previous_secret_valid_until))}</span>}</>],
          ...(headers.length ? [[words.headers, headers.join(", ")] as [string, string]] : []),
          [words.retries, webhook.retry_schedule.split(",").map(wait).join(", ")],
          ...(webhook.rate_limit ? [[words.rate, number(webhook.rate_limit)] as [string, string]] : []),
          [words.added, <Moment at={webhook.inserted_at} />],
        ]}
      />
    </Card>
  );
}

/** Ranges that are on their way; those that are done are of no interest any more after an hour. */
function Resends({ site, id }: { site: string; id: string }) {
  const client = useQueryClient();
  const resends = useQuery(resendsQuery(site, id));
  const recent = (resends.data ?? []).filter(({ status, updated_at }) => status === "running" || status === "paused" || Date.now() - Date.parse(updated_at) < 3_600_000);
  if (recent.length === 0) return null;
  const set = async (resend_id: string, status: string) => {
    try {
      await answer(api.PATCH("/api/sites/{site}/webhooks/{id}/resends/{resend_id}", { params: { path: { site, id, resend_id } }, body: { status } }));
    } catch (error) {
      tell((error as Error).message);
    }
    await client.invalidateQueries({ queryKey: ["resends", site, id] });
  };
  return (
    <Card title={text.deliveries.resends}>
      <ul className="divide-y divide-line">
        {recent.map((resend) => (
          <li key={resend.id} className="grid items-center gap-x-4 gap-y-2 px-5 py-3 text-sm sm:min-h-14 sm:grid-cols-[7rem_10rem_minmax(0,1fr)_auto]">
            <span><Badge tone={resend.status === "done" ? "good" : resend.status === "running" ? "warn" : "plain"}>{text.deliveries.resendStatuses[resend.status] ?? resend.status}</Badge></span>
            <progress max={Math.max(1, resend.total)} value={resend.queued} aria-label={text.deliveries.resends} className="w-full" />
            <span className="tabular-nums">{text.deliveries.progress(number(resend.queued), number(resend.total))}</span>
            <Writes>
              <span className="flex gap-2 empty:hidden">
                {resend.status === "running" && <Button small icon="pause" onClick={() => void set(resend.id, "paused")}>{words.pause}</Button>}
                {resend.status === "paused" && <Button small icon="play" onClick={() => void set(resend.id, "running")}>{words.resume}</Button>}
                {(resend.status === "running" || resend.status === "paused") && <Button small onClick={() => void set(resend.id, "cancelled")}>{text.deliveries.cancelResend}</Button>}
              </span>
            </Writes>
          </li>
        ))}
      </ul>
    </Card>
  );
}
