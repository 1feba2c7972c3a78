// Roles, from the one that may least. Nobody gives more than what they have.
import { text } from "./text";

export const ROLES = ["viewer", "editor", "admin", "owner"];

/** Whether `role` may what asks for `least`. */
export const mayAtLeast = (role: string | undefined, least: string) => ROLES.indexOf(role ?? "") >= ROLES.indexOf(least);

/** The roles that somebody with `role` may give. */
export const upTo = (role: string | undefined) => ROLES.slice(0, ROLES.indexOf(role ?? "viewer") + 1);

export const roleOptions = (roles: string[]): [string, string][] => roles.map((one) => [one, text.keys.roles[one] ?? one]);
export const roleName = (role: string) => text.keys.roleNames[role] ?? role;
