import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import { api, answer, type Trigger, type Webhook, type WebhookBody } from "../api/client";
import { deliveryQuery, goalsQuery, pulseQuery, resendsQuery, webhookQuery } from "../api/queries";
import { ago, exact, number, shortUrl, span, wait } from "../format";
import { healthOf } from "../health";
import { useLive } from "../live";
import { Deliveries } from "../parts/deliveries";
import { tell } from "../parts/toast";
import { Asked, Badge, Button, ButtonLink, Card, Code, Confirm, Copy, Head, Moment, Notice, Pairs, ProblemNotice } from "../parts/ui";
import { forgetSecret, keepSecret, secretOf } from "../secrets";
import { triggerSentence } from "../sentences";
import { text } from "../text";

const words = text.webhooks;

export function WebhookPage() {
  const { site, webhook: id } = useParams({ from: "/shell/sites/$site/webhooks/$webhook" });
  const webhook = useQuery(webhookQuery(site, id));
  const pulse = useQuery(pulseQuery(site, id));
  useLive(["webhook", site, id], ["pulse", site, id], ["fresh", site, id], ["resends", site, id]);
  return (
    <Asked query={webhook}>
      {(known) => {
        const health = pulse.data && healthOf(known, pulse.data.last);
        const { host, path } = shortUrl(known.url);
        return (
          <>
            <Head
              title={known.name}
              above={<Link to="/sites/$site/webhooks" params={{ site }} className="link">{words.title}</Link>}
              badge={health && <Badge tone={health.tone}>{words.health[health.word]}</Badge>}
              lead={<><span className="text-ink">{host}</span>{path}{health && <span className="block text-sm">{health.why}</span>}</>}
            >
              <Actions site={site} webhook={known} />
            </Head>
            <div className="grid gap-6">
              <Secret id={id} />
              <Test site={site} webhook={known} />
              <div className="grid items-start gap-6 lg:grid-cols-[3fr_2fr]">
                <Triggers site={site} webhook={known} />
                <Details webhook={known} />
              </div>
              <Resends site={site} id={id} />
              <Deliveries site={site} webhook={id} />
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
    <>
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
    </>
  );
}

/** Shown once; leaving the page forgets it. */
function Secret({ id }: { id: string }) {
  const [shown, setShown] = useState(() => secretOf(id));
  const told = secretOf(id);
  if (told && told !== shown) setShown(told);
  useEffect(() => {
    // In a strict development build effects run twice; what is forgotten is only what is not shown.
    return () => void setTimeout(() => document.querySelector(`[data-secret="${id}"]`) ?? forgetSecret(id));
  }, [id]);
  if (!shown) return null;
  return (
    <section data-secret={id} aria-label={words.secretTitle} className="card grid gap-4 border-good! p-5">
      <Notice tone="good" role="status" title={words.secretTitle}>
        <p>{words.secretWhy} {shown.until && words.rotated(exact(shown.until))}</p>
      </Notice>
      <Code label={words.secretTitle}>{shown.secret}</Code>
      <div className="flex flex-wrap items-center gap-2">
        <Copy value={`PULSEHOOK_WEBHOOK_SECRET=${shown.secret}`} label="PULSEHOOK_WEBHOOK_SECRET=…" />
        <ButtonLink to="/help/signatures" small look="quiet" icon="shield">{words.secretHelp}</ButtonLink>
      </div>
    </section>
  );
}

/** Sends a test and follows it. */
function Test({ site, webhook }: { site: string; webhook: Webhook }) {
  const client = useQueryClient();
  const [id, setId] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const delivery = useQuery({
    ...deliveryQuery(site, webhook.id, id ?? ""),
    enabled: !!id,
    refetchInterval: ({ state }) => (state.data && ["success", "failed", "cancelled"].includes(state.data.status) ? false : 400),
  });
  const send = async () => {
    setBusy(true);
    setProblem(null);
    try {
      const told = await answer(api.POST("/api/sites/{site}/webhooks/{id}/test", { params: { path: { site, id: webhook.id } } }));
      setId(told.delivery.id);
      await client.invalidateQueries({ queryKey: ["deliveries", site, webhook.id] });
    } catch (error) {
      setProblem(error);
    } finally {
      setBusy(false);
    }
  };
  const known = id ? delivery.data : undefined;
  const ended = known && ["success", "failed", "cancelled"].includes(known.status);
  useEffect(() => {
    if (ended) void client.invalidateQueries({ queryKey: ["deliveries", site, webhook.id] });
  }, [ended, client, site, webhook.id]);
  const last = known?.attempts?.at(-1);
  return (
    <Card className="px-5 py-4">
      <div className="flex flex-wrap items-center gap-x-4 gap-y-3">
        <Button look="main" icon="send" busy={busy} onClick={() => void send()}>{words.test}</Button>
        <div aria-live="polite" className="min-w-0 flex-1 basis-72 text-sm empty:basis-0">
          {id && !known && words.testing}
          {known?.status === "success" && last && (
            <p className="flex items-center gap-2 font-medium text-good"><Badge tone="good">{text.deliveries.statuses["success"]}</Badge> {words.tested(known.response_code ?? 0, span(last.duration_ms))}</p>
          )}
          {known && known.status !== "success" && (
            <p>
              {known.status === "failed" || known.status === "cancelled"
                ? words.testFailed
                : known.next_attempt_at && known.attempt > 0
                  ? words.testWaiting(ago(known.next_attempt_at))
                  : words.testing}{" "}
              {known.error_message && <span className="font-medium text-bad">{known.error_message}</span>}
            </p>
          )}
        </div>
        {known && <Link to="/sites/$site/webhooks/$webhook/deliveries/$delivery" params={{ site, webhook: webhook.id, delivery: known.id }} className="link text-sm">{words.testDetail}</Link>}
      </div>
      {problem ? <div className="mt-3"><ProblemNotice problem={problem} /></div> : null}
    </Card>
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
    <Card title={words.triggers} actions={<ButtonLink to="/sites/$site/webhooks/$webhook/triggers/new" params={{ site, webhook: webhook.id }} small icon="plus">{text.triggers.add}</ButtonLink>}>
      {webhook.triggers.length === 0 ? (
        <div className="p-5"><Notice tone="warn">{text.triggers.empty}</Notice></div>
      ) : (
        <ul className="divide-y divide-line">
          {webhook.triggers.map((trigger) => {
            const name = text.triggers.names[trigger.type] ?? trigger.type;
            return (
              <li key={trigger.id} className="flex items-start gap-3 px-5 py-3">
                <div className="min-w-0 flex-1 [overflow-wrap:anywhere]">
                  <p className="font-medium">{name}</p>
                  <p className="text-sm text-muted">{triggerSentence(trigger, goals.data)}</p>
                </div>
                <ButtonLink to="/sites/$site/webhooks/$webhook/triggers/$trigger" params={{ site, webhook: webhook.id, trigger: trigger.id }} small look="quiet" icon="edit"><span className="sr-only">{text.common.edit} {name}</span></ButtonLink>
                <Button small look="quiet" icon="trash" aria-label={`${text.common.delete} ${name}`} onClick={() => setDeleting(trigger)} />
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
          [words.address, webhook.url],
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
          <li key={resend.id} className="flex flex-wrap items-center gap-x-4 gap-y-2 px-5 py-3 text-sm">
            <Badge tone={resend.status === "done" ? "good" : resend.status === "running" ? "warn" : "plain"}>{text.deliveries.resendStatuses[resend.status] ?? resend.status}</Badge>
            <progress max={Math.max(1, resend.total)} value={resend.queued} aria-label={text.deliveries.resends} className="h-2 w-40 accent-press" />
            <span className="flex-1">{text.deliveries.progress(number(resend.queued), number(resend.total))}</span>
            {resend.status === "running" && <Button small icon="pause" onClick={() => void set(resend.id, "paused")}>{words.pause}</Button>}
            {resend.status === "paused" && <Button small icon="play" onClick={() => void set(resend.id, "running")}>{words.resume}</Button>}
            {(resend.status === "running" || resend.status === "paused") && <Button small onClick={() => void set(resend.id, "cancelled")}>{text.deliveries.cancelResend}</Button>}
          </li>
        ))}
      </ul>
    </Card>
  );
}
