import { useQueryClient } from "@tanstack/react-query";
import { useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer } from "../api/client";
import { useForm } from "../parts/form";
import { Button, ButtonLink, Code, Head, ProblemNotice, TextField } from "../parts/ui";
import { text } from "../text";
import { PlainFrame } from "./plain-frame";

export function SetUp() {
  const { token } = useSearch({ from: "/setup" });
  const client = useQueryClient();
  const [account, setAccount] = useState("");
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [key, setKey] = useState<string | null>(null);
  const form = useForm(async () => {
    const done = await answer(api.POST("/api/setup", { body: { token: token ?? "", account, email, password } }));
    client.clear();
    // The link is used up; it need not stay in the history.
    window.history.replaceState(window.history.state, "", location.pathname);
    setPassword("");
    setKey(done.key);
  });

  if (key) {
    return (
      <PlainFrame>
        <Head title={text.setup.doneTitle} lead={text.setup.doneLead} />
        <div className="grid gap-5">
          <Code label={text.keys.key}>{key}</Code>
          <ButtonLink to="/start" look="main">{text.setup.go}</ButtonLink>
        </div>
      </PlainFrame>
    );
  }
  if (!token) {
    return (
      <PlainFrame>
        <Head title={text.setup.noToken} lead={text.setup.noTokenWhy} />
        <ButtonLink to="/sign-in">{text.signIn.title}</ButtonLink>
      </PlainFrame>
    );
  }
  return (
    <PlainFrame>
      <Head title={text.setup.title} lead={text.setup.lead} />
      <form onSubmit={form.submit} className="grid gap-4">
        <ProblemNotice problem={form.rest} />
        <TextField label={text.setup.account} hint={text.setup.accountHint} errors={form.errors["account"]} value={account} onChange={(event) => setAccount(event.target.value)} required autoComplete="organization" autoFocus />
        <TextField label={text.setup.email} errors={form.errors["email"]} type="email" value={email} onChange={(event) => setEmail(event.target.value)} required autoComplete="username" />
        <TextField label={text.setup.password} hint={text.setup.passwordHint} errors={form.errors["password"]} type="password" value={password} onChange={(event) => setPassword(event.target.value)} required autoComplete="new-password" />
        <Button type="submit" look="main" busy={form.busy}>{text.setup.create}</Button>
      </form>
    </PlainFrame>
  );
}
