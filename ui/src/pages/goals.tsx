import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer, type Goal } from "../api/client";
import { goalsQuery, meQuery } from "../api/queries";
import { useForm } from "../parts/form";
import { Asked, Button, Card, Confirm, Empty, Head, ProblemNotice, SelectField, TextField } from "../parts/ui";
import { Writes } from "../parts/writes";
import { text } from "../text";

type Kind = keyof typeof text.goals.kinds;

const describe = (goal: Goal) => {
  if (goal.goal_type === "event") return text.goals.describe.event(goal.event_name ?? "");
  if (goal.goal_type === "scroll") return text.goals.describe.scroll(goal.page_path ?? "", goal.scroll_threshold ?? 0);
  return text.goals.describe.page(goal.page_path ?? "");
};

export function Goals() {
  const { site } = useParams({ from: "/shell/sites/$site/goals" });
  const goals = useQuery(goalsQuery(site));
  const me = useQuery(meQuery);
  const client = useQueryClient();
  const [deleting, setDeleting] = useState<Goal | null>(null);
  const changed = () => client.invalidateQueries({ queryKey: ["goals", site] });
  const remove = async (id: string) => {
    await answer(api.DELETE("/api/sites/{site}/goals/{id}", { params: { path: { site, id } } }));
    await changed();
  };
  return (
    <>
      <Head title={text.goals.title} lead={me.data?.directory === "plausible" ? text.goals.mirrored : text.goals.lead} />
      <div className="grid items-start gap-6 lg:has-[form]:grid-cols-[1fr_22rem]">
        <div className="card">
          <Asked query={goals}>
            {(list) =>
              list.length === 0 ? (
                <Empty title={text.goals.emptyTitle} icon="flag">{text.goals.empty}</Empty>
              ) : (
                <ul className="divide-y divide-line">
                  {list.map((goal) => (
                    <li key={goal.id} className="flex items-center gap-4 px-5 py-3">
                      <div className="min-w-0 flex-1 [overflow-wrap:anywhere]">
                        <p className="font-medium">{goal.display_name}</p>
                        <p className="text-sm text-muted">{describe(goal)}</p>
                      </div>
                      <Writes own><Button small look="quiet" icon="trash" onClick={() => setDeleting(goal)} aria-label={`${text.common.delete} ${goal.display_name}`} /></Writes>
                    </li>
                  ))}
                </ul>
              )
            }
          </Asked>
        </div>
        <Writes own><NewGoal site={site} onDone={changed} /></Writes>
      </div>
      <Confirm open={!!deleting} title={text.goals.deleteTitle} yes={text.common.delete} danger onYes={() => remove(deleting!.id)} onClose={() => setDeleting(null)}>
        {deleting && text.goals.deleteWhy(deleting.display_name)}
      </Confirm>
    </>
  );
}

function NewGoal({ site, onDone }: { site: string; onDone: () => Promise<void> }) {
  const [kind, setKind] = useState<Kind>("event");
  const [event, setEvent] = useState("");
  const [path, setPath] = useState("");
  const [depth, setDepth] = useState("90");
  const [display, setDisplay] = useState("");
  const form = useForm(async () => {
    const body = {
      ...(kind === "event" ? { event_name: event } : { page_path: path }),
      ...(kind === "scroll" ? { scroll_threshold: Number(depth) } : {}),
      ...(display ? { display_name: display } : {}),
    };
    await answer(api.POST("/api/sites/{site}/goals", { params: { path: { site } }, body }));
    setEvent("");
    setPath("");
    setDisplay("");
    await onDone();
  });
  return (
    <Card title={text.goals.add}>
      <form onSubmit={form.submit} className="grid gap-4 p-5">
        <ProblemNotice problem={form.rest} />
        <SelectField label={text.goals.kind} value={kind} onChange={(change) => setKind(change.target.value as Kind)} options={Object.entries(text.goals.kinds)} />
        {kind === "event" ? (
          <TextField label={text.goals.event} hint={text.goals.eventHint} errors={form.errors["event_name"]} value={event} onChange={(change) => setEvent(change.target.value)} required maxLength={120} />
        ) : (
          <TextField label={text.goals.path} hint={text.goals.pathHint} errors={form.errors["page_path"]} value={path} onChange={(change) => setPath(change.target.value)} required />
        )}
        {kind === "scroll" && (
          <TextField label={text.goals.scroll} errors={form.errors["scroll_threshold"]} type="number" min={1} max={100} value={depth} onChange={(change) => setDepth(change.target.value)} required />
        )}
        <TextField label={text.goals.display} hint={text.goals.displayHint} optional errors={form.errors["display_name"]} value={display} onChange={(change) => setDisplay(change.target.value)} />
        <div className="flex justify-end"><Button type="submit" look="main" busy={form.busy}>{text.goals.add}</Button></div>
      </form>
    </Card>
  );
}
