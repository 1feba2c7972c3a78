import { Problem } from "../api/client";
import { Button, ButtonLink, Empty, Head, ProblemNotice } from "../parts/ui";
import { text } from "../text";

export function Lost() {
  return (
    <main className="mx-auto max-w-xl p-6">
      <Head title={text.problem.notFound} lead={text.problem.notFoundWhy} />
      <ButtonLink to="/" look="main">{text.nav.overview}</ButtonLink>
    </main>
  );
}

export function Crash({ error }: { error: unknown }) {
  return (
    <main className="mx-auto grid max-w-xl gap-4 p-6">
      {error instanceof Problem ? (
        <ProblemNotice problem={error} retry={() => location.reload()} />
      ) : (
        <Empty title={text.problem.crash} icon="alert" action={<Button onClick={() => location.reload()}>{text.common.retry}</Button>}>
          {text.problem.crashWhy}
        </Empty>
      )}
    </main>
  );
}
