import { Problem } from "../api/client";
import { Button, Empty, NotFound, ProblemNotice } from "../parts/ui";
import { text } from "../text";

/** An address that is none of ours, and nobody is signed in. */
export function Lost() {
  return <main className="mx-auto max-w-xl p-6"><NotFound /></main>;
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
