import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";
import { api, answer } from "../api/client";
import { deliveryQuery, webhookQuery } from "../api/queries";
import { due, span } from "../format";
import { text } from "../text";
import { Icon } from "./icon";
import { Phases } from "./phases";
import { Button, Card, ProblemNotice } from "./ui";

const words = text.webhooks;

/** Sends a test and follows it. */
export function Test({ site, webhook, onEnd }: { site: string; webhook: string; onEnd?: (delivered: boolean) => void }) {
  const client = useQueryClient();
  const [id, setId] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const delivery = useQuery({
    ...deliveryQuery(site, webhook, id ?? ""),
    enabled: !!id,
    refetchInterval: ({ state }) => (state.data && ["success", "failed", "cancelled"].includes(state.data.status) ? false : 400),
  });
  const send = async () => {
    setBusy(true);
    setProblem(null);
    try {
      const told = await answer(api.POST("/api/sites/{site}/webhooks/{id}/test", { params: { path: { site, id: webhook } } }));
      setId(told.delivery.id);
      await client.invalidateQueries({ queryKey: ["deliveries", site, webhook] });
    } catch (error) {
      setProblem(error);
    } finally {
      setBusy(false);
    }
  };
  // One that mostly fails is asked seldom; a test waits for it like everything else.
  const apart = useQuery({ ...webhookQuery(site, webhook), enabled: !!id }).data?.left_alone_until;
  const known = id ? delivery.data : undefined;
  const ended = known && ["success", "failed", "cancelled"].includes(known.status);
  useEffect(() => {
    if (ended) void client.invalidateQueries({ queryKey: ["deliveries", site, webhook] });
  }, [ended, client, site, webhook]);
  const status = known?.status;
  const told = useRef(onEnd);
  useEffect(() => {
    told.current = onEnd;
  });
  useEffect(() => {
    if (status === "success" || status === "failed") told.current?.(status === "success");
  }, [status]);
  const last = known?.attempts?.at(-1);
  return (
    <Card className="px-5 py-4">
      <div className="flex flex-wrap items-center gap-x-4 gap-y-3">
        <Button look="main" icon="send" busy={busy} onClick={() => void send()}>{words.test}</Button>
        <div aria-live="polite" className="min-w-0 flex-1 basis-72 text-sm empty:basis-0">
          {!id && <span className="text-muted">{words.testIdle}</span>}
          {id && !known && words.testing}
          {known?.status === "success" && last && (
            <p className="flex items-start gap-2 font-medium text-good"><span className="mt-0.5"><Icon name="check" /></span> {words.tested(known.response_code ?? 0, span(last.duration_ms))}</p>
          )}
          {known && known.status !== "success" && (
            <p>
              {known.status === "failed" || known.status === "cancelled"
                ? words.testFailed
                : known.next_attempt_at && known.attempt > 0
                  ? words.testWaiting(due(known.next_attempt_at))
                  : apart
                    ? words.testLeftAlone(due(apart))
                    : words.testing}{" "}
              {known.error_message && <span className="font-medium text-bad">{known.error_message}</span>}
            </p>
          )}
        </div>
        {known && <Link to="/sites/$site/webhooks/$webhook/deliveries/$delivery" params={{ site, webhook: webhook, delivery: known.id }} className="link text-sm">{words.testDetail}</Link>}
      </div>
      {last && ended && <div className="mt-3 max-w-2xl"><Phases attempt={last} /></div>}
      {problem ? <div className="mt-3"><ProblemNotice problem={problem} /></div> : null}
    </Card>
  );
}
