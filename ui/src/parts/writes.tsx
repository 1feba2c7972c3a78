// What only somebody who may change things is offered: nobody fills in a form to be refused at its end.
import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { meQuery } from "../api/queries";
import { mayAtLeast } from "../roles";
import { text } from "../text";
import { Notice } from "./ui";

/** Whether whoever looks has at least this role. */
export function useMay(least: string): boolean {
  const me = useQuery(meQuery);
  return mayAtLeast(me.data?.role, least);
}

/** For editors and above, and with `own` only where sites and goals are ours; to others `instead`, by default nothing. */
export function Writes({ children, instead, least = "editor", own }: { children: ReactNode; instead?: ReactNode; least?: string; own?: boolean }) {
  const may = useMay(least);
  const me = useQuery(meQuery);
  return may && !(own && me.data?.directory === "plausible") ? children : instead;
}

/** In place of a form. */
export function ViewerNotice() {
  const may = useMay("editor");
  return <Notice tone="plain">{may ? text.install.mirrored : text.problem.viewer}</Notice>;
}
