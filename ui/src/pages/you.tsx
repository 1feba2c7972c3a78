import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer } from "../api/client";
import { meQuery, sessionsQuery } from "../api/queries";
import { browserOf } from "../browser";
import { useForm } from "../parts/form";
import { tell } from "../parts/toast";
import { Asked, Button, Card, Confirm, Head, Moment, Notice, ProblemNotice, Table, TextField } from "../parts/ui";
import { text } from "../text";

const words = text.you;

/** What belongs to the person and not to an account: password and sessions. */
export function You() {
  const me = useQuery(meQuery);
  return (
    <>
      <Head title={words.title} lead={me.data?.user ? words.lead(me.data.user.email) : undefined} />
      <Asked query={me}>
        {(known) =>
          known.user ? (
            <div className="grid gap-6">
              {known.directory === "plausible" ? <Notice tone="plain">{text.members.managed}</Notice> : <Password email={known.user.email} />}
              <Sessions accounts={new Map(known.accounts.map(({ id, name }) => [id, name]))} />
            </div>
          ) : (
            <Notice tone="plain">{words.keyOnly}</Notice>
          )
        }
      </Asked>
    </>
  );
}

function Password({ email }: { email: string }) {
  const client = useQueryClient();
  const [current, setCurrent] = useState("");
  const [fresh, setFresh] = useState("");
  const form = useForm(async () => {
    await answer(api.PUT("/api/me/password", { body: { current_password: current, new_password: fresh } }));
    setCurrent("");
    setFresh("");
    tell(words.changed);
    await client.invalidateQueries({ queryKey: ["sessions"] });
  });
  return (
    <Card title={words.password}>
      <form onSubmit={form.submit} className="grid max-w-md gap-4 p-5">
        <ProblemNotice problem={form.rest} />
        <input type="hidden" name="username" value={email} autoComplete="username" />
        <TextField label={words.current} errors={form.errors["current_password"]} type="password" value={current} onChange={(event) => setCurrent(event.target.value)} required autoComplete="current-password" />
        <TextField label={words.fresh} hint={text.setup.passwordHint} errors={form.errors["new_password"]} type="password" value={fresh} onChange={(event) => setFresh(event.target.value)} required autoComplete="new-password" />
        <div className="flex justify-end"><Button type="submit" look="main" busy={form.busy}>{words.change}</Button></div>
      </form>
    </Card>
  );
}

function Sessions({ accounts }: { accounts: Map<string, string> }) {
  const sessions = useQuery(sessionsQuery);
  const client = useQueryClient();
  const navigate = useNavigate();
  const [everywhere, setEverywhere] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const end = async (id: string) => {
    setProblem(null);
    try {
      await answer(api.DELETE("/api/sessions/{id}", { params: { path: { id } } }));
    } catch (error) {
      setProblem(error);
    }
    await client.invalidateQueries({ queryKey: ["sessions"] });
  };
  const endAll = async () => {
    await answer(api.DELETE("/api/sessions"));
    client.clear();
    await navigate({ to: "/sign-in", search: {} });
  };
  return (
    <Card title={words.sessions} lead={words.sessionsLead} actions={<Button small onClick={() => setEverywhere(true)}>{words.everywhere}</Button>}>
      {!!problem && <div className="p-5"><ProblemNotice problem={problem} /></div>}
      <Asked query={sessions}>
        {(list) => (
          <Table
            label={words.sessions}
            items={list}
            keyOf={({ id }) => id}
            columns={[
              {
                name: words.browser,
                bare: true,
                className: "[overflow-wrap:anywhere] sm:min-w-40",
                of: ({ user_agent, current }) => <span><span className="font-medium" title={user_agent}>{browserOf(user_agent)}</span>{current && <span className="text-muted"> ({words.here})</span>}</span>,
              },
              { name: words.account, className: "[overflow-wrap:anywhere]", of: ({ account_id }) => accounts.get(account_id) ?? account_id },
              { name: words.lastUsed, of: (session) => <Moment at={session.last_used_at} /> },
              { name: words.since, of: (session) => <Moment at={session.inserted_at} /> },
              { name: text.common.actions, bare: true, of: ({ id, user_agent, current }) => (current ? null : <Button small look="quiet" className="-ml-2.5" onClick={() => void end(id)} aria-label={words.endOf(browserOf(user_agent))}>{words.end}</Button>) },
            ]}
          />
        )}
      </Asked>
      <Confirm open={everywhere} title={words.everywhereTitle} yes={words.everywhere} danger onYes={endAll} onClose={() => setEverywhere(false)}>
        {words.everywhereWhy}
      </Confirm>
    </Card>
  );
}
