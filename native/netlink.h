// The kernel's announcements of TCMU devices, and our replies (specification section A.2): generic netlink,
// family "TCM-USER". Two sockets: one hears the multicast group, one speaks, so that an awaited
// acknowledgement and an announcement never meet. Control path; the JS thread only.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Numbers of linux/target_core_user.h.
enum { TCMU_ADDED = 1, TCMU_REMOVED = 2, TCMU_RECONFIG = 3 };

struct tcmu_event {
    int command; // above
    int version; // of the message's header; above 1 the kernel waits for a reply
    uint32_t minor, device_id;
    const char *name; // "tcm-user/<hba>/<dev>/<dev_config>"; valid during the call
};

struct tcmu_netlink;

// Connects, joins the group, announces that we reply. 0 or -errno (-ENOENT: the module is not loaded). The
// announcement binds: from then on the kernel waits for a reply to every message.
int tcmu_netlink_open(struct tcmu_netlink **out);
int tcmu_netlink_fd(const struct tcmu_netlink *n); // readable when receive may find something
// Calls handle for every waiting message, without blocking. 0 or -errno.
int tcmu_netlink_receive(struct tcmu_netlink *n,
                         void (*handle)(void *context, const struct tcmu_event *event), void *context);
// Ends the kernel's wait for one event of a device: 0 or -errno as status. 0 or -errno.
int tcmu_netlink_reply(struct tcmu_netlink *n, int command, uint32_t device_id, int status);
void tcmu_netlink_close(struct tcmu_netlink *n);

#ifdef __cplusplus
}
#endif
