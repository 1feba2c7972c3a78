import type { ReactNode } from "react";
import { Logo } from "./shell";

/** Around what is drawn before somebody is signed in. */
export function PlainFrame({ children }: { children: ReactNode }) {
  return (
    <main className="mx-auto flex min-h-dvh max-w-md flex-col justify-center gap-6 px-5 py-10">
      <Logo />
      <div className="card p-6">{children}</div>
    </main>
  );
}
