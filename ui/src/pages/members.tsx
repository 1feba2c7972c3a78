import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer, type Invitation, type Member } from "../api/client";
import { invitationsQuery, meQuery, membersQuery } from "../api/queries";
import { useForm } from "../parts/form";
import { tell } from "../parts/toast";
import { Asked, Button, Card, Code, Confirm, Dialog, Empty, Head, Moment, Notice, ProblemNotice, SelectField, Table, TextField } from "../parts/ui";
import { day } from "../format";
import { mayAtLeast, roleName, roleOptions, ROLES, upTo } from "../roles";
import { text } from "../text";

const words = text.members;

export function Members() {
  const members = useQuery(membersQuery);
  const me = useQuery(meQuery);
  const client = useQueryClient();
  const navigate = useNavigate();
  const [inviting, setInviting] = useState(false);
  const [told, setTold] = useState<{ email: string; link: string } | null>(null);
  const [going, setGoing] = useState<Member | null>(null);
  const managed = me.data?.directory === "plausible";
  const invites = !managed && mayAtLeast(me.data?.role, "admin");
  const isMe = (member: Member | null) => !!member && me.data?.who === `user:${member.id}`;
  const isBelow = (member: Member) => invites && upTo(me.data?.role).includes(member.role);
  const leaving = (member: Member) => {
    const verb = isMe(member) ? words.leave : words.remove;
    if (!isMe(member) && !isBelow(member)) return null;
    return <Button small look="quiet" className="-ml-2.5" onClick={() => setGoing(member)} aria-label={`${verb} ${member.email}`}>{verb}</Button>;
  };
  const remove = async () => {
    const left = isMe(going);
    await answer(api.DELETE("/api/members/{id}", { params: { path: { id: going!.id } } }));
    if (!left) return client.invalidateQueries({ queryKey: ["members"] });
    // The session was one of that account.
    client.clear();
    return navigate({ to: "/" });
  };
  return (
    <>
      <Head title={words.title} lead={managed ? words.managed : words.lead}>
        {invites && <Button look="main" icon="plus" onClick={() => setInviting(true)}>{words.invite}</Button>}
      </Head>
      {told && (
        <div className="mb-6 grid gap-3">
          <Notice tone="good" role="status" title={words.linkTitle(told.email)}>{words.linkWhy}</Notice>
          <Code label={words.link}>{told.link}</Code>
        </div>
      )}
      <div className="grid gap-6">
        <div className="card">
          <Asked query={members}>
            {(list) =>
              list.length === 0 ? (
                <Empty title={words.title} icon="people">{words.empty}</Empty>
              ) : (
                <Table
                  label={words.title}
                  items={list}
                  keyOf={({ id }) => id}
                  columns={[
                    {
                      name: words.email,
                      bare: true,
                      className: "[overflow-wrap:anywhere] sm:min-w-44",
                      of: (member) => <span><span className="font-medium">{member.email}</span>{isMe(member) && <span className="text-muted"> ({words.you})</span>}</span>,
                    },
                    { name: text.common.role, of: (member) => (isBelow(member) ? <RoleOf member={member} most={me.data?.role} /> : roleName(member.role)) },
                    { name: words.since, of: (member) => <Moment at={member.inserted_at} /> },
                    ...(managed ? [] : [{ name: text.common.actions, bare: true, of: (member: Member) => leaving(member) }]),
                  ]}
                />
              )
            }
          </Asked>
        </div>
        {invites && <Pending />}
      </div>
      <Dialog open={inviting} title={words.inviteTitle} onClose={() => setInviting(false)}>
        <Invite
          most={me.data?.role}
          onClose={() => setInviting(false)}
          onDone={async (email, link) => {
            setTold({ email, link });
            setInviting(false);
            await client.invalidateQueries({ queryKey: ["invitations"] });
          }}
        />
      </Dialog>
      <Confirm open={!!going} title={isMe(going) ? words.leaveTitle : words.removeTitle} yes={isMe(going) ? words.leave : words.remove} danger onYes={remove} onClose={() => setGoing(null)}>
        {going && (isMe(going) ? words.leaveWhy : words.removeWhy(going.email))}
      </Confirm>
    </>
  );
}

function RoleOf({ member, most }: { member: Member; most: string | undefined }) {
  const client = useQueryClient();
  const [problem, setProblem] = useState<unknown>(null);
  const change = async (role: string) => {
    setProblem(null);
    try {
      await answer(api.PATCH("/api/members/{id}", { params: { path: { id: member.id } }, body: { role } }));
      tell(words.roleChanged);
    } catch (error) {
      setProblem(error);
    }
    await Promise.all([client.invalidateQueries({ queryKey: ["members"] }), client.invalidateQueries({ queryKey: ["me"] })]);
  };
  return (
    <div className="grid max-w-56 min-w-28 gap-2">
      <select aria-label={words.roleOf(member.email)} value={member.role} onChange={(event) => void change(event.target.value)} className="field w-auto py-1">
        {upTo(most).toReversed().map((role) => <option key={role} value={role}>{roleName(role)}</option>)}
      </select>
      <ProblemNotice problem={problem} />
    </div>
  );
}

function Pending() {
  const invitations = useQuery(invitationsQuery);
  const client = useQueryClient();
  const [revoking, setRevoking] = useState<Invitation | null>(null);
  const revoke = async () => {
    await answer(api.DELETE("/api/invitations/{id}", { params: { path: { id: revoking!.id } } }));
    await client.invalidateQueries({ queryKey: ["invitations"] });
  };
  return (
    <Card title={words.pending}>
      <Asked query={invitations} rows={1}>
        {(list) =>
          list.length === 0 ? (
            <p className="px-5 py-4 text-sm text-muted">{words.noPending}</p>
          ) : (
            <Table
              label={words.pending}
              items={list}
              keyOf={({ id }) => id}
              columns={[
                { name: words.email, bare: true, className: "font-medium [overflow-wrap:anywhere] sm:min-w-44", of: ({ email }) => email },
                { name: text.common.role, of: ({ role }) => roleName(role) },
                { name: words.expires, className: "whitespace-nowrap", of: ({ expires_at }) => day(expires_at) },
                { name: text.common.actions, bare: true, of: (invitation) => <Button small look="quiet" className="-ml-2.5" onClick={() => setRevoking(invitation)} aria-label={`${words.revoke} ${invitation.email}`}>{words.revoke}</Button> },
              ]}
            />
          )
        }
      </Asked>
      <Confirm open={!!revoking} title={words.revokeTitle} yes={words.revoke} danger onYes={revoke} onClose={() => setRevoking(null)}>
        {revoking && words.revokeWhy(revoking.email)}
      </Confirm>
    </Card>
  );
}

function Invite({ most, onClose, onDone }: { most: string | undefined; onClose: () => void; onDone: (email: string, link: string) => Promise<void> }) {
  const [email, setEmail] = useState("");
  const [role, setRole] = useState(ROLES[0]!);
  const form = useForm(async () => {
    const { invitation, link } = await answer(api.POST("/api/invitations", { body: { email, role } }));
    await onDone(invitation.email, link);
  });
  return (
    <form onSubmit={form.submit} className="grid gap-4">
      <p className="text-muted">{words.inviteWhy}</p>
      <ProblemNotice problem={form.rest} />
      <TextField label={words.email} errors={form.errors["email"]} type="email" value={email} onChange={(event) => setEmail(event.target.value)} required autoFocus autoComplete="off" />
      <SelectField label={text.common.role} errors={form.errors["role"]} value={role} onChange={(event) => setRole(event.target.value)} options={roleOptions(upTo(most))} />
      <div className="flex justify-end gap-2">
        <Button onClick={onClose}>{text.common.cancel}</Button>
        <Button type="submit" look="main" busy={form.busy}>{words.invite}</Button>
      </div>
    </form>
  );
}
