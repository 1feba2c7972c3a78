import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer, type Schemas } from "../api/client";
import { meQuery } from "../api/queries";
import { useForm } from "../parts/form";
import { tell } from "../parts/toast";
import { Asked, Button, Card, Confirm, Head, ProblemNotice, TextField } from "../parts/ui";
import { mayAtLeast } from "../roles";
import { text } from "../text";

const words = text.accountSettings;

export function AccountSettings() {
  const me = useQuery(meQuery);
  return (
    <div className="max-w-2xl">
      <Head title={words.title} lead={me.data?.directory === "plausible" ? text.members.managed : undefined} />
      <Asked query={me}>{(known) => <Forms key={known.account.id} me={known} />}</Asked>
    </div>
  );
}

function Forms({ me }: { me: Schemas["MeAnswer"] }) {
  const client = useQueryClient();
  const navigate = useNavigate();
  const [name, setName] = useState(me.account.name);
  const [deleting, setDeleting] = useState(false);
  const own = me.directory !== "plausible";
  const renames = own && mayAtLeast(me.role, "admin");
  const form = useForm(async () => {
    await answer(api.PATCH("/api/account", { body: { name } }));
    await client.invalidateQueries({ queryKey: ["me"] });
    tell(words.saved);
  });
  const remove = async () => {
    await answer(api.DELETE("/api/account", { body: { name: me.account.name } }));
    client.clear();
    // Whoever has another account goes on in it; the others are asked to sign in.
    await navigate({ to: "/" });
  };
  return (
    <div className="grid gap-6">
      <form onSubmit={form.submit} className="card grid gap-5 p-5">
        <ProblemNotice problem={form.rest} />
        <TextField label={words.name} hint={own && !renames ? words.adminOnly : undefined} errors={form.errors["name"]} value={name} onChange={(event) => setName(event.target.value)} required maxLength={255} readOnly={!renames} autoComplete="organization" />
        {renames && <div className="flex justify-end"><Button type="submit" look="main" busy={form.busy}>{text.common.save}</Button></div>}
      </form>
      {own && mayAtLeast(me.role, "owner") && (
        <Card title={words.deleteTitle}>
          <div className="flex flex-wrap items-center justify-between gap-4 px-5 py-4">
            <p className="max-w-md text-sm text-muted">{words.deleteWhy}</p>
            <Button look="danger" icon="trash" onClick={() => setDeleting(true)}>{words.deleteButton}</Button>
          </div>
        </Card>
      )}
      <Confirm open={deleting} title={words.deleteTitle} yes={text.common.delete} danger word={me.account.name} onYes={remove} onClose={() => setDeleting(false)}>
        {words.deleteWhy}
      </Confirm>
    </div>
  );
}
