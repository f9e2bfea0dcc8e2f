#include "netlink.h"
#include "tcmu_uapi.h"
#include <errno.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <stdlib.h>
#include <sys/socket.h>

// Fifty simultaneous creates overflow the default buffer, and a lost message makes the kernel wait for ever.
enum { RECEIVE_BUFFER = 4 << 20, FAMILY_VERSION = 2 };

struct tcmu_netlink {
    struct nl_sock *hear, *speak;
    int family;
    void (*handle)(void *, const struct tcmu_event *); // during receive
    void *context;
};

// -errno for a negative libnl error, or 0.
static int system_error(int nl)
{
    switch (-nl) {
    case NLE_SUCCESS:
        return 0;
    case NLE_OBJ_NOTFOUND:
        return -ENOENT;
    case NLE_NOMEM:
        return -ENOMEM;
    case NLE_PERM:
    case NLE_NOACCESS:
        return -EPERM;
    case NLE_AGAIN:
        return -EAGAIN;
    case NLE_OPNOTSUPP:
        return -EOPNOTSUPP;
    default:
        return -EIO;
    }
}

static int on_message(struct nl_msg *msg, void *arg)
{
    struct tcmu_netlink *n = arg;
    struct genlmsghdr *header = nlmsg_data(nlmsg_hdr(msg));
    struct nlattr *a[TCMU_ATTR_MAX + 1];
    if (nlmsg_hdr(msg)->nlmsg_type != n->family ||
        genlmsg_parse(nlmsg_hdr(msg), 0, a, TCMU_ATTR_MAX, NULL) < 0 || !a[TCMU_ATTR_DEVICE] ||
        !a[TCMU_ATTR_MINOR] || nla_len(a[TCMU_ATTR_MINOR]) < (int)sizeof(uint32_t) ||
        (header->version > 1 &&
         (!a[TCMU_ATTR_DEVICE_ID] || nla_len(a[TCMU_ATTR_DEVICE_ID]) < (int)sizeof(uint32_t))))
        return NL_SKIP;
    char *name = nla_strdup(a[TCMU_ATTR_DEVICE]);
    if (!name)
        return NL_SKIP;
    struct tcmu_event event = {
        .command = header->cmd,
        .version = header->version,
        .minor = nla_get_u32(a[TCMU_ATTR_MINOR]),
        .device_id = header->version > 1 ? nla_get_u32(a[TCMU_ATTR_DEVICE_ID]) : 0,
        .name = name,
    };
    n->handle(n->context, &event);
    free(name);
    return NL_OK;
}

static int announce(struct tcmu_netlink *n)
{
    struct nl_msg *msg = nlmsg_alloc();
    if (!msg)
        return -ENOMEM;
    int r = -ENOMEM;
    if (genlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, n->family, 0, 0, TCMU_CMD_SET_FEATURES, FAMILY_VERSION) &&
        nla_put_u8(msg, TCMU_ATTR_SUPP_KERN_CMD_REPLY, 1) == 0) {
        r = nl_send_auto(n->speak, msg);
        if (r >= 0)
            r = nl_wait_for_ack(n->speak);
        r = r < 0 ? system_error(r) : 0;
        if (r == -EOPNOTSUPP) // an old kernel, which waits for no reply
            r = 0;
    }
    nlmsg_free(msg);
    return r;
}

static struct nl_sock *connect_socket(int *r)
{
    struct nl_sock *s = nl_socket_alloc();
    *r = s ? system_error(genl_connect(s)) : -ENOMEM;
    return s;
}

int tcmu_netlink_open(struct tcmu_netlink **out)
{
    struct tcmu_netlink *n = calloc(1, sizeof *n);
    if (!n)
        return -ENOMEM;
    int r, group, size = RECEIVE_BUFFER;
    n->hear = connect_socket(&r);
    if (r == 0)
        n->speak = connect_socket(&r);
    if (r == 0) {
        n->family = genl_ctrl_resolve(n->speak, "TCM-USER");
        group = genl_ctrl_resolve_grp(n->speak, "TCM-USER", "config");
        r = n->family < 0 ? system_error(n->family) : group < 0 ? system_error(group) : 0;
    }
    if (r == 0) {
        nl_socket_disable_seq_check(n->hear);
        nl_socket_modify_cb(n->hear, NL_CB_VALID, NL_CB_CUSTOM, on_message, n);
        setsockopt(nl_socket_get_fd(n->hear), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
        int on = 1;
        setsockopt(nl_socket_get_fd(n->hear), SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof on);
        r = system_error(nl_socket_set_nonblocking(n->hear));
    }
    if (r == 0)
        r = system_error(nl_socket_add_membership(n->hear, group));
    if (r == 0)
        r = announce(n);
    if (r < 0) {
        tcmu_netlink_close(n);
        return r;
    }
    *out = n;
    return 0;
}

int tcmu_netlink_fd(const struct tcmu_netlink *n)
{
    return nl_socket_get_fd(n->hear);
}

int tcmu_netlink_receive(struct tcmu_netlink *n, void (*handle)(void *, const struct tcmu_event *),
                         void *context)
{
    n->handle = handle;
    n->context = context;
    int r;
    do
        r = nl_recvmsgs_default(n->hear);
    while (r >= 0);
    return -r == NLE_AGAIN ? 0 : system_error(r);
}

int tcmu_netlink_reply(struct tcmu_netlink *n, int command, uint32_t device_id, int status)
{
    static const int done[] = {
        [TCMU_ADDED] = TCMU_CMD_ADDED_DEVICE_DONE,
        [TCMU_REMOVED] = TCMU_CMD_REMOVED_DEVICE_DONE,
        [TCMU_RECONFIG] = TCMU_CMD_RECONFIG_DEVICE_DONE,
    };
    if (command < TCMU_ADDED || command > TCMU_RECONFIG)
        return -EINVAL;
    struct nl_msg *msg = nlmsg_alloc();
    if (!msg)
        return -ENOMEM;
    int r = -ENOMEM;
    if (genlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, n->family, 0, 0, (uint8_t)done[command],
                    FAMILY_VERSION) &&
        nla_put_s32(msg, TCMU_ATTR_CMD_STATUS, status) == 0 &&
        nla_put_u32(msg, TCMU_ATTR_DEVICE_ID, device_id) == 0) {
        nl_complete_msg(n->speak, msg);
        nlmsg_hdr(msg)->nlmsg_flags &= (uint16_t)~NLM_F_ACK; // nobody would read it
        r = nl_send(n->speak, msg);
        r = r < 0 ? system_error(r) : 0;
    }
    nlmsg_free(msg);
    return r;
}

void tcmu_netlink_close(struct tcmu_netlink *n)
{
    if (n->hear)
        nl_socket_free(n->hear);
    if (n->speak)
        nl_socket_free(n->speak);
    free(n);
}
