import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer } from "../api/client";
import { signUpClosedQuery } from "../api/queries";
import { useForm } from "../parts/form";
import { Button, ButtonLink, Head, ProblemNotice, TextField } from "../parts/ui";
import { text } from "../text";
import { PlainFrame } from "./plain-frame";

const words = text.signUp;

export function SignUp() {
  const client = useQueryClient();
  const navigate = useNavigate();
  const [account, setAccount] = useState("");
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const form = useForm(async () => {
    await answer(api.POST("/api/sign-up", { body: { account, email, password } }));
    client.clear();
    await navigate({ to: "/sites/new", replace: true });
  });
  const closed = useQuery(signUpClosedQuery).data ?? (form.problem?.code === "sign_up_closed" ? form.problem.message : null);
  if (closed) {
    return (
      <PlainFrame>
        <Head title={words.closedTitle} lead={closed} />
        <ButtonLink to="/sign-in">{text.signIn.title}</ButtonLink>
      </PlainFrame>
    );
  }
  return (
    <PlainFrame>
      <Head title={words.title} lead={words.lead} />
      <form onSubmit={form.submit} className="grid gap-4">
        <ProblemNotice problem={form.rest} />
        <TextField label={text.setup.account} hint={text.setup.accountHint} errors={form.errors["account"]} value={account} onChange={(event) => setAccount(event.target.value)} required autoComplete="organization" autoFocus />
        <TextField label={text.setup.email} errors={form.errors["email"]} type="email" value={email} onChange={(event) => setEmail(event.target.value)} required autoComplete="username" />
        <TextField label={text.setup.password} hint={text.setup.passwordHint} errors={form.errors["password"]} type="password" value={password} onChange={(event) => setPassword(event.target.value)} required autoComplete="new-password" />
        <Button type="submit" look="main" busy={form.busy}>{words.submit}</Button>
        <p className="text-sm text-muted">{words.have} <Link to="/sign-in" className="link">{text.signIn.title}</Link></p>
      </form>
    </PlainFrame>
  );
}
