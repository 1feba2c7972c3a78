import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, answer, type ApiKey } from "../api/client";
import { keysQuery, meQuery, sitesQuery } from "../api/queries";
import { day, fromInput } from "../format";
import { useForm } from "../parts/form";
import { Asked, Button, Code, Confirm, Dialog, Empty, Head, Moment, Notice, ProblemNotice, SelectField, Table, TextField } from "../parts/ui";
import { Writes } from "../parts/writes";
import { ROLES, roleOptions, upTo } from "../roles";
import { text } from "../text";

const words = text.keys;

export function Keys() {
  const keys = useQuery(keysQuery);
  const sites = useQuery(sitesQuery);
  const domainOf = (id: string) => sites.data?.find((site) => site.id === id)?.domain ?? id;
  const client = useQueryClient();
  const [adding, setAdding] = useState(false);
  const [shown, setShown] = useState<string | null>(null);
  const [deleting, setDeleting] = useState<ApiKey | null>(null);
  const changed = () => client.invalidateQueries({ queryKey: ["keys"] });
  const remove = async (id: string) => {
    await answer(api.DELETE("/api/keys/{id}", { params: { path: { id } } }));
    await changed();
  };
  const add = <Writes least="admin"><Button look="main" icon="plus" onClick={() => setAdding(true)}>{words.add}</Button></Writes>;
  return (
    <>
      <Head title={words.title} lead={words.lead}>{add}</Head>
      {shown && (
        <div className="mb-6 grid gap-3">
          <Notice tone="good" role="status" title={words.shownTitle}>{words.shownWhy}</Notice>
          <Code label={words.key}>{shown}</Code>
        </div>
      )}
      <div className="card">
        <Asked query={keys}>
          {(list) =>
            list.length === 0 ? (
              <Empty title={words.emptyTitle} icon="key">{words.empty}</Empty>
            ) : (
              <Table
                label={words.title}
                items={list}
                keyOf={({ id }) => id}
                columns={[
                  { name: text.common.name, bare: true, className: "font-medium [overflow-wrap:anywhere] sm:min-w-40", of: ({ name }) => name },
                  { name: words.key, className: "font-mono text-xs whitespace-nowrap", of: ({ prefix }) => `${prefix}…` },
                  { name: text.common.role, of: ({ role }) => words.roleNames[role] ?? role },
                  { name: words.site, className: "[overflow-wrap:anywhere]", of: ({ site_id }) => (site_id ? domainOf(site_id) : words.allSites) },
                  { name: words.lastUsed, of: ({ last_used_at }) => (last_used_at ? <Moment at={last_used_at} /> : text.common.never) },
                  { name: words.expires, className: "whitespace-nowrap", of: ({ expires_at }) => (expires_at ? day(expires_at) : text.common.never) },
                  { name: text.common.actions, bare: true, of: (key) => <Button small look="quiet" icon="trash" className="-ml-2.5" onClick={() => setDeleting(key)} aria-label={`${text.common.delete} ${key.name}`} /> },
                ]}
              />
            )
          }
        </Asked>
      </div>
      <Dialog open={adding} title={words.addTitle} onClose={() => setAdding(false)}>
        <NewKey onClose={() => setAdding(false)} onDone={async (key) => { setShown(key); setAdding(false); await changed(); }} />
      </Dialog>
      <Confirm open={!!deleting} title={words.deleteTitle} yes={text.common.delete} danger onYes={() => remove(deleting!.id)} onClose={() => setDeleting(null)}>
        {deleting && words.deleteWhy(deleting.name)}
      </Confirm>
    </>
  );
}

function NewKey({ onClose, onDone }: { onClose: () => void; onDone: (key: string) => Promise<void> }) {
  const me = useQuery(meQuery);
  const [name, setName] = useState("");
  const [role, setRole] = useState("viewer");
  const [expires, setExpires] = useState("");
  const [site, setSite] = useState("");
  const sites = useQuery(sitesQuery);
  const mine = upTo(me.data?.role).filter((one) => !site || ROLES.indexOf(one) <= ROLES.indexOf("editor"));
  const form = useForm(async () => {
    const expires_at = fromInput(expires);
    const { key } = await answer(api.POST("/api/keys", { body: { name, role, ...(site ? { site } : {}), ...(expires_at ? { expires_at } : {}) } }));
    await onDone(key);
  });
  return (
    <form onSubmit={form.submit} className="grid gap-4">
      <ProblemNotice problem={form.rest} />
      <TextField label={text.common.name} errors={form.errors["name"]} value={name} onChange={(event) => setName(event.target.value)} required maxLength={255} autoFocus />
      <SelectField label={text.common.role} errors={form.errors["role"]} value={role} onChange={(event) => setRole(event.target.value)} options={roleOptions(mine)} />
      <SelectField
        label={words.site}
        hint={words.siteHint}
        errors={form.errors["site"]}
        value={site}
        onChange={(event) => {
          setSite(event.target.value);
          if (event.target.value && ROLES.indexOf(role) > ROLES.indexOf("editor")) setRole("editor");
        }}
        options={[["", words.allSites], ...(sites.data ?? []).map(({ id, domain }): [string, string] => [id, domain])]}
      />
      <TextField label={words.expires} optional errors={form.errors["expires_at"]} type="datetime-local" value={expires} onChange={(event) => setExpires(event.target.value)} />
      <div className="flex justify-end gap-2">
        <Button onClick={onClose}>{text.common.cancel}</Button>
        <Button type="submit" look="main" busy={form.busy}>{words.add}</Button>
      </div>
    </form>
  );
}
