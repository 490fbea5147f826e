#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# keep_log.sh LOG COMPILER ARGUMENTS...: keeps all that the compiler says in LOG, passing on what is no resource report.
log=$1
shift
"$@" >"$log" 2>&1
status=$?
grep -v -e '^ptxas info' -e 'bytes stack frame' -e '^$' "$log" >&2
exit $status
